"""What the benchmarks' figures mean."""

import pytest

from benchmarks.client import percentile


@pytest.mark.parametrize(
    ("count", "fraction", "rank"),
    [(100, 0.5, 50), (100, 0.99, 99), (100, 0.07, 7), (101, 0.5, 51), (10, 0.99, 10), (5, 0.5, 3), (1, 0.5, 1)],
)
def test_a_percentile_is_the_value_of_the_nearest_rank(count: int, fraction: float, rank: int) -> None:
    assert percentile([float(value) for value in range(count, 0, -1)], fraction) == rank
