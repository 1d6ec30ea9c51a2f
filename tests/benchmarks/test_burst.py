"""When a burst is over for the ensemble size."""

import json
from pathlib import Path

import pytest

from benchmarks import burst
from benchmarks.burst import Bin, seconds_until_back


def course(sizes: list[float | None]) -> list[Bin]:
    return [{"at": 0.5 * index, "mean size": size} for index, size in enumerate(sizes)]


def test_back_is_the_first_bin_from_which_on_the_size_is_as_before() -> None:
    series = course([1, 1, 16, 15, 16, 2, 2, 3, 9, 15, 16, 16])  # the burst from 2.5 to 3.5 s; a second of warm-up
    assert seconds_until_back(series, 2.5, 3.5) == pytest.approx(1.0)


def test_a_size_that_falls_again_is_not_back() -> None:
    assert seconds_until_back(course([16, 16, 16, 16, 2, 16, 2, 2, 15, 16]), 2.0, 2.5) == pytest.approx(1.5)
    assert seconds_until_back(course([16, 16, 16, 16, 2, 2, 3, 3, None]), 2.0, 2.5) is None


def test_a_size_that_never_fell_is_back_at_once() -> None:
    assert seconds_until_back(course([16] * 10), 2.0, 2.5) == 0


def test_a_burst_is_reported(tiny_package: Path, image_folder: Path, tmp_path: Path) -> None:
    burst.main(
        f"--model {tiny_package} --images {image_folder} --count 8 --threads 1 --runner cpu --max-batch 4 --rho 1 "
        f"--calibration 0.2 --before 1 --burst 0.3 --after 0.5 --repeats 2 --output {tmp_path / 'burst.json'}".split()
    )
    report = json.loads((tmp_path / "burst.json").read_text())
    assert [row["repeat"] for row in report["rows"]] == [0, 1, "all"]
    sizes = [row["before mean size"] for row in report["rows"]]
    assert 0 < min(sizes[:2]) <= sizes[2] <= max(sizes[:2]) <= 16
    for series in report["courses"]:
        busy = [point["offered/s"] for point in series if report["start"] <= point["at"] < report["stop"] - 0.2]
        assert min(busy) > 2 * report["capacity"]
    assert (tmp_path / "burst.svg").stat().st_size > 1000
