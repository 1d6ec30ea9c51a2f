"""What the benchmarks' figures mean, and what they refuse to measure."""

import pytest

from benchmarks.client import Answer, answer_figures, percentile
from benchmarks.labelled import check_labels


@pytest.mark.parametrize(
    ("count", "fraction", "rank"),
    [(100, 0.5, 50), (100, 0.99, 99), (100, 0.07, 7), (101, 0.5, 51), (10, 0.99, 10), (5, 0.5, 3), (1, 0.5, 1)],
)
def test_a_percentile_is_the_value_of_the_nearest_rank(count: int, fraction: float, rank: int) -> None:
    assert percentile([float(value) for value in range(count, 0, -1)], fraction) == rank


def test_images_of_classes_that_the_model_knows_are_taken() -> None:
    check_labels([("cat", b""), ("ship", b""), ("cat", b"")], ["ship", "cat", "truck"])


def test_images_of_other_classes_are_refused_and_named() -> None:
    images = [("cat", b""), ("n02123045", b""), ("Ship", b""), ("Ship", b"")]
    with pytest.raises(SystemExit, match=r"does not know the classes 'Ship', 'n02123045'; it knows 'cat', 'ship'$"):
        check_labels(images, ["cat", "ship"])
    with pytest.raises(SystemExit, match=r"it knows 'c0', .*'c9' and 990 more$"):
        check_labels(images, [f"c{index}" for index in range(1000)])


def test_what_is_no_prediction_counts_as_other_and_not_as_fast() -> None:
    predictions = [Answer(status=200, milliseconds=10.0 * size, label="a", ensemble_size=size) for size in (4, 8)]
    refusals = [Answer(status=503, milliseconds=0.1), Answer(status=504, milliseconds=0.1)]
    assert answer_figures([*refusals, *predictions]) == {
        "answered": 2,
        "other": 2,
        "mean size": 6,
        "p50 ms": 40.0,
        "p99 ms": 80.0,
    }
    assert answer_figures(refusals)["p99 ms"] is None
