"""What a study reads of its runs, and makes of several seeds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from training.config import TrainConfig
from training.errors import RunError
from training.evaluation import Evaluation, SizeFigures
from training.streams import BudgetFigures
from training.studies.catalog import study_named
from training.studies.plan import PlannedRun
from training.studies.record import Line, Record, Spread, load_record
from training.studies.study import Protocol
from training.studies.tables import as_markdown


def evaluation(epochs: float = 2, **changes: Any) -> Evaluation:
    """One that nothing was measured for, but for the changes."""
    values: dict[str, Any] = {
        "architecture": "hne_small",
        "evaluated_on": "nothing",
        "run_sha256": "0" * 64,
        "epochs": epochs,
        "seed": 0,
        "command": "none",
        "versions": {},
        "settings": {},
        "sizes": (),
        "leaf_accuracies": (),
    }
    return Evaluation(**values | changes)


def test_one_seed_has_no_deviation_and_several_have_that_of_one_seed() -> None:
    assert Spread.of([3.0]) == (3.0, None)
    mean, deviation = Spread.of([1.0, 2.0, 6.0])
    assert mean == 3.0
    assert deviation == pytest.approx(((4 + 1 + 9) / 2) ** 0.5)


def test_only_a_run_that_was_evaluated_at_its_end_has_a_record(tmp_path: Path) -> None:
    run = PlannedRun(config=TrainConfig(epochs=2).resolved())

    def evaluated(epochs: int, **settings: float) -> None:
        path = tmp_path / run.name / "evaluation.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(evaluation(epochs, settings=dict(settings)).model_dump_json())

    assert load_record(run, tmp_path) is None
    evaluated(1)
    assert load_record(run, tmp_path) is None, "midway"
    evaluated(2)
    assert load_record(run, tmp_path) is not None
    evaluated(2, lr=0.3)
    with pytest.raises(RunError, match="measured with another lr"):
        load_record(run, tmp_path)


def test_a_line_is_the_mean_over_its_seeds_in_millions_and_percent() -> None:
    def size(ensemble_size: int, accuracy: float) -> SizeFigures:
        return SizeFigures(
            ensemble_size=ensemble_size,
            flops=13_000_000 * ensemble_size,
            accuracy=accuracy,
            nll=0.9,
            ece=0.2,
            temperature=1.5,
            calibrated_nll=0.4,
            calibrated_ece=0.1,
            logit_std=0.0,
        )

    run = PlannedRun(config=TrainConfig(epochs=2, data=Path("images")).resolved())
    seeds = [
        evaluation(
            sizes=(size(1, accuracy), size(2, accuracy + 0.02)),
            leaf_accuracies=(accuracy, accuracy - 0.1),
            budgeted=(BudgetFigures(threshold=0.5, accuracy=accuracy, ensemble_size=1.5, flops=20e6 * accuracy),),
        )
        for accuracy in (0.5, 0.7)
    ]
    records = tuple(Record(run=run, evaluation=seed) for seed in seeds)
    line = Line(architecture="hne_small", label="any", planned=(run, run), records=records)
    assert line.sizes == (1, 2)
    assert line.mflops(2) == pytest.approx(26)
    assert line.accuracy(2).mean == pytest.approx(62)
    assert line.leaf_accuracies == pytest.approx([60, 50])
    assert line.budgeted == [pytest.approx((12, 60))]
    page = as_markdown(study_named("table1"), [line], Protocol(changes={}, architectures=None), caption="")
    assert "| HNEsmall | any | 26.0 | 0.000 ± 0.000 | 0.400 ± 0.000 | 0.100 ± 0.000 |" in page
