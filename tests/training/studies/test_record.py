"""What a study reads of its runs, and makes of several seeds."""

from __future__ import annotations

from pathlib import Path

import pytest

from training.config import TrainConfig
from training.errors import RunError
from training.evaluation import Evaluation
from training.studies.plan import PlannedRun
from training.studies.record import Spread, load_record


def test_one_seed_has_no_deviation_and_several_have_that_of_one_seed() -> None:
    assert Spread.of([3.0]) == (3.0, None)
    mean, deviation = Spread.of([1.0, 2.0, 6.0])
    assert mean == 3.0
    assert deviation == pytest.approx(((4 + 1 + 9) / 2) ** 0.5)


def test_only_a_run_that_was_evaluated_at_its_end_has_a_record(tmp_path: Path) -> None:
    run = PlannedRun(config=TrainConfig(epochs=2).resolved())

    def evaluated(epochs: int, **settings: float) -> None:
        evaluation = Evaluation(
            architecture="hne_small",
            evaluated_on="nothing",
            run_sha256="0" * 64,
            epochs=epochs,
            seed=0,
            command="none",
            versions={},
            settings=dict(settings),
            sizes=(),
            leaf_accuracies=(),
        )
        path = tmp_path / run.name / "evaluation.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(evaluation.model_dump_json())

    assert load_record(run, tmp_path) is None
    evaluated(1)
    assert load_record(run, tmp_path) is None, "midway"
    evaluated(2)
    assert load_record(run, tmp_path) is not None
    evaluated(2, lr=0.3)
    with pytest.raises(RunError, match="measured with another lr"):
        load_record(run, tmp_path)
