"""The table of budgets: its figures, and what a real server's answers make of it."""

import json
from pathlib import Path

import pytest

from benchmarks import deadlines
from benchmarks.client import Answer
from benchmarks.deadlines import DEADLINES_MS, row
from benchmarks.served import served

FLAGS = ("--threads", "1", "--profile-seconds", "0.1", "--keep-profile", "false", "--runner", "cpu")


def answer(milliseconds: float, label: str, size: int) -> Answer:
    return Answer(status=200, milliseconds=milliseconds, label=label, ensemble_size=size, flops=10 * size)


ANSWERS = [
    answer(4.0, "cat", 2),
    answer(12.5, "ship", 4),
    answer(10.0, "cat", 9),
    Answer(status=504, milliseconds=11.0),
    Answer(status=503, milliseconds=1.0),
]
LABELS = ["cat", "cat", "cat", "cat", "cat"]


def test_a_line_says_who_was_answered_how_deep_how_late_and_how_often_right() -> None:
    assert row("deadline_ms", 10, LABELS, ANSWERS) == {
        "budget": "deadline_ms",
        "limit": 10,
        "answered": 3,
        "504": 1,
        "other": 1,
        "mean size": 5,
        "max flops": 90,
        "right of all": pytest.approx(2 / 5),
        "right of answered": pytest.approx(2 / 3),
        "p50 ms": 10.0,
        "p99 ms": 12.5,
        "late": 1,
        "max late ms": 2.5,
    }


@pytest.mark.parametrize(("budget", "limit"), [("deadline_ms", None), ("max_flops", 10)])
def test_nobody_is_late_without_a_deadline(budget: str, limit: float | None) -> None:
    line = row(budget, limit, LABELS, ANSWERS)
    assert (line["late"], line["max late ms"]) == (0, 0.0)
    assert line["limit"] == (limit or "none")


def test_a_line_without_an_answer_has_no_size_and_nothing_right() -> None:
    line = row("deadline_ms", 2, LABELS, [Answer(status=504, milliseconds=2.0)] * 5)
    assert (line["answered"], line["504"], line["mean size"], line["right of answered"]) == (0, 5, 0, 0.0)


def run(package: Path, folder: Path, output: Path, *flags: str) -> None:
    with served(package, *FLAGS, *flags) as (url, _):
        deadlines.main(f"--url {url} --images {folder} --count 8 --output {output}".split())


def test_every_budget_is_spent_in_full(tiny_package: Path, image_folder: Path, tmp_path: Path) -> None:
    run(tiny_package, image_folder, tmp_path / "deadlines.json")
    report = json.loads((tmp_path / "deadlines.json").read_text())
    assert report["faults"] == []
    timed, counted = report["rows"][: len(DEADLINES_MS)], report["rows"][len(DEADLINES_MS) :]
    assert [line["limit"] for line in timed] == [*DEADLINES_MS[:-1], "none"]
    assert (timed[-1]["answered"], timed[-1]["mean size"]) == (8, 16)
    assert [(line["answered"], line["mean size"]) for line in counted] == [(8, size) for size in range(1, 17)]
    assert [line["max flops"] for line in counted] == [figures["flops"] for figures in report["table"]]


def test_a_fault_comes_after_the_report(tiny_package: Path, image_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="8 of 8 answers did not cost the table's") as end:
        run(tiny_package, image_folder, tmp_path / "deadlines.json", "--policy", "fixed:1")  # spends less than it may
    report = json.loads((tmp_path / "deadlines.json").read_text())
    assert len(report["rows"]) == len(DEADLINES_MS) + 16
    assert "\n".join(report["faults"]) == end.value.code
    assert len(report["faults"]) == 15


def test_images_of_other_classes_are_refused(tiny_package: Path, image_folder: Path, tmp_path: Path) -> None:
    others = tmp_path / "images"
    others.mkdir()
    for number in range(4):
        (others / f"animal {number}").symlink_to(image_folder / f"class {number}")
    with pytest.raises(SystemExit, match="does not know the classes 'animal 0', 'animal 1'"):
        run(tiny_package, others, tmp_path / "deadlines.json")
    assert not (tmp_path / "deadlines.json").exists()
