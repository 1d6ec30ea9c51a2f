"""The overload benchmark: its grid, its table, and a small run of it, interrupted."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks import overload
from benchmarks.load.grid import PILOT, Cell, Grid, Setting
from benchmarks.load.table import comparison, rows

GRID = Grid(
    rhos=[1.0, 4.0],
    cv2s=[1.0],
    slacks=[1.5, 3.0],
    faults=[0.0],
    policies=["anytime", "slackfit", "replan"],
    repeats=2,
    seconds=1.0,
    warm_up=0.5,
    margins=[1.0, 2.0],
    pilot_rhos=[2.0],
    seed=0,
)
TIGHT, WIDE = GRID.settings


def figures(goodput: float, **more: object) -> dict[str, object]:
    return {"goodput": goodput, "mean size": 4.0, "sizes": {1: 2, 16: 1}, "valid": True, "p99 ms": None} | more


def test_every_baseline_gets_the_margin_that_served_it_best_in_each_setting() -> None:
    pilots = GRID.pilots()
    assert {cell.policy for cell in pilots} == {"slackfit", "replan"}
    best = {(TIGHT, "slackfit"): 2.0, (WIDE, "slackfit"): 1.0, (TIGHT, "replan"): 1.0, (WIDE, "replan"): 2.0}
    goodput = {cell.key: 0.5 + 0.1 * (best[cell.setting, cell.policy] == cell.margin) for cell in pilots}
    assert GRID.best_margins(goodput) == best
    names = {(cell.setting, cell.named) for cell in GRID.cells(best)}
    assert {(TIGHT, "anytime"), (TIGHT, "slackfit@2"), (WIDE, "slackfit@1"), (WIDE, "replan@2")} <= names
    assert len(list(GRID.cells(best))) == 2 * 2 * 2 * 3


def test_all_policies_see_the_same_arrivals_and_every_repeat_others() -> None:
    cells = list(GRID.cells({}))
    seeds = {(cell.setting, cell.rho, cell.repeat): cell.seed for cell in cells}
    assert all(cell.seed == seeds[cell.setting, cell.rho, cell.repeat] for cell in cells)
    everything = [*seeds.values(), replace(cells[0], repeat=PILOT).seed]
    assert len({tuple(seed) for seed in everything}) == len(everything)


def test_the_planner_is_warm_before_anything_counts() -> None:
    cell = Cell(setting=Setting(cv2=1, slack=3, faults=0), rho=1.0, policy="replan", repeat=0)
    assert GRID.warm_up_of(cell) > 10
    assert GRID.warm_up_of(replace(cell, policy="anytime")) == 0.5


def test_the_table_has_medians_ranges_and_the_comparison() -> None:
    grid = replace(GRID, repeats=3, policies=["anytime", "slackfit"], slacks=[3.0])
    goodput = {
        (1.0, "anytime"): (0.70, 0.72, 0.71),
        (1.0, "slackfit"): (0.73, 0.715, 0.74),
        (4.0, "anytime"): (0.6, 0.6, 0.6),
        (4.0, "slackfit"): (0.2, 0.3, 0.4),
    }
    cells = list(grid.cells({}))
    table = rows(cells, {cell.key: figures(goodput[cell.rho, cell.policy][cell.repeat]) for cell in cells})
    first = table[0]
    assert (first["goodput"], first["goodput low"], first["goodput high"]) == (0.71, 0.70, 0.72)
    assert first["sizes"] == {"1": 6, "16": 3}
    assert first["p99 ms"] is None
    (line,) = comparison(table)
    assert line["anytime against"] == "slackfit"
    assert line["least gain, points"] == pytest.approx(-2)
    assert line["greatest gain, points"] == pytest.approx(30)
    assert (line["at or above"], line["of"]) == (2, 2)  # the ranges at rho 1 overlap


def test_one_invalid_repeat_makes_a_row_invalid() -> None:
    cells = list(replace(GRID, policies=["anytime"], slacks=[3.0], rhos=[1.0]).cells({}))
    (row,) = rows(cells, {cell.key: figures(0.5, valid=cell.repeat == 0) for cell in cells})
    assert not row["valid"]


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        ("--policies anytime slackfitt", "there is no policy 'slackfitt'"),
        ("--policies slackfit --margins 0.5", "at least 1"),
        ("--threads 0", "must be at least 1"),
    ],
)
def test_what_is_mistyped_is_told_before_anything_is_measured(
    arguments: str,
    fault: str,
    tiny_package: Path,
    image_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    output = tmp_path / "overload.json"
    given = f"--model {tiny_package} --images {image_folder} --count 8 --runner cpu --output {output} {arguments}"
    with pytest.raises(SystemExit) as ended:
        overload.main(given.split())
    assert fault in f"{ended.value}{capsys.readouterr().err}"
    assert not list(tmp_path.iterdir())


def test_the_same_command_elsewhere_is_not_the_same_run(
    tiny_package: Path, image_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arguments = (
        f"--model {tiny_package} --images {image_folder} --count 8 --threads 1 --runner cpu --rhos 1 --cv2s 1 "
        "--slacks 3 --faults 0 --policies anytime --margins --seconds 0.3 --warm-up 0 "
        f"--repeats 1 --calibration 0.2 --max-batch 4 --output {tmp_path / 'overload.json'}"
    ).split()
    overload.main(arguments)
    monkeypatch.setattr(overload, "machine", lambda: {"processor": "another"})
    with pytest.raises(SystemExit, match="begun with another machine"):
        overload.main(arguments)


def test_an_interrupted_run_goes_on_where_it_stopped(
    tiny_package: Path, image_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = (
        f"--model {tiny_package} --images {image_folder} --count 8 --threads 1 --runner cpu --rhos 2 8 --cv2s 1 "
        "--slacks 3 --faults 0 0.05 --policies anytime slackfit --margins 1 2 --pilot-rhos 2 --seconds 0.3 --warm-up 0 "
        f"--repeats 1 --calibration 0.2 --max-batch 4 --output {tmp_path / 'overload.json'}"
    ).split()
    overload.main(arguments)
    assert "4 runs to go" in capsys.readouterr().out
    journal = tmp_path / "overload.jsonl"
    lines = journal.read_text().splitlines(keepends=True)
    assert len(lines) == 1 + 4 + 8
    journal.write_text("".join(lines[:-3]))
    overload.main(arguments)
    said = capsys.readouterr().out
    assert "0 runs to go" in said
    assert "3 runs to go" in said
    again = journal.read_text().splitlines(keepends=True)
    assert again[:-3] == lines[:-3]
    report = json.loads((tmp_path / "overload.json").read_text())
    assert [(row["faults"], row["rho"], row["policy"]) for row in report["rows"]] == [
        (faults, rho, policy) for faults in (0, 0.05) for rho in (2, 8) for policy in ("anytime", "slackfit")
    ]
    assert all(row["offered"] > 0 and row["failed"] == row["lost"] == 0 for row in report["rows"])
    assert report["capacity"] > 0
    assert report["comparison"][0]["of"] == 4
    assert (tmp_path / "overload-3x.svg").stat().st_size > 1000
