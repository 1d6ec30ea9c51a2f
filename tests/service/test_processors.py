"""How many threads a container's quota is worth."""

import os
from pathlib import Path

import pytest

from service.processors import processors

ALL = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


@pytest.mark.parametrize(
    ("limit", "expected"),
    [("50000 100000", 1), ("100000 100000", 1), ("150000 100000", min(ALL, 2)), ("6400000 100000", ALL)],
    ids=["half", "one", "one and a half", "64"],
)
def test_a_quota_limits_the_threads(tmp_path: Path, limit: str, expected: int) -> None:
    (tmp_path / "cpu.max").write_text(f"{limit}\n")
    assert processors(tmp_path) == expected


@pytest.mark.parametrize("text", ["max 100000\n", "", "nonsense of three words\n"], ids=["max", "empty", "nonsense"])
def test_without_a_quota_all_are_used(tmp_path: Path, text: str) -> None:
    (tmp_path / "cpu.max").write_text(text)
    assert processors(tmp_path) == ALL


@pytest.mark.parametrize(("quota", "expected"), [("-1", ALL), ("100000", 1)], ids=["none", "one"])
def test_the_older_cgroups_are_read_too(tmp_path: Path, quota: str, expected: int) -> None:
    (tmp_path / "cpu").mkdir()
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text(f"{quota}\n")
    (tmp_path / "cpu" / "cpu.cfs_period_us").write_text("100000\n")
    assert processors(tmp_path) == expected


def test_a_machine_without_cgroups_has_no_quota(tmp_path: Path) -> None:
    assert processors(tmp_path / "absent") == ALL
