"""A trained run as the teacher of another."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from model_core.spec import ModelSpec
from tests.training.runs import settings, trainer
from training.data import ImageDataset
from training.errors import RunError
from training.run_state import RunState
from training.teacher import with_teacher
from training.trainer import new_run


def test_a_teacher_changes_what_is_learnt_and_must_stay_the_same(
    finished: Path, image_folder: Path, small_spec: ModelSpec, data: ImageDataset, tmp_path: Path
) -> None:
    teacher = tmp_path / "teacher"
    shutil.copytree(finished, teacher)
    config = with_teacher(settings(image_folder, teacher=teacher, epochs=1, seed=5))
    assert trainer(new_run(config, small_spec, data), data, tmp_path / "taught").train()
    alone = settings(image_folder, epochs=1, seed=5)
    assert trainer(new_run(alone, small_spec, data), data, tmp_path / "alone").train()
    taught, untaught = (RunState.load(tmp_path / name).model.state_dict() for name in ("taught", "alone"))
    assert not all(tensor.equal(untaught[name]) for name, tensor in taught.items())

    state = RunState.load(teacher)
    next(state.model.parameters()).data.add_(1)
    state.save(teacher)
    with pytest.raises(RunError, match="not those that the run was started with"):
        trainer(RunState.load(tmp_path / "taught"), data, tmp_path / "taught")
    with pytest.raises(RunError, match="no trained run there"):
        with_teacher(settings(image_folder, teacher=tmp_path / "none"))


@pytest.mark.parametrize("change", [{"class_names": ("green", "blue", "red")}, {"preprocessing": {"mean": (0, 0, 0)}}])
def test_a_teacher_of_other_classes_or_colours_is_refused(
    change: dict[str, Any],
    finished: Path,
    image_folder: Path,
    small_spec: ModelSpec,
    data: ImageDataset,
    tmp_path: Path,
) -> None:
    state = RunState.load(finished)
    if "preprocessing" in change:
        change = {"preprocessing": state.data.preprocessing.model_copy(update=change["preprocessing"])}
    replace(state, data=state.data.model_copy(update=change)).save(tmp_path / "teacher")
    config = with_teacher(settings(image_folder, teacher=tmp_path / "teacher"))
    with pytest.raises(RunError, match="its classes or its images' size or colours are not those of this run"):
        trainer(new_run(config, small_spec, data), data, tmp_path / "run")


def test_a_teacher_that_has_seen_images_held_out_here_is_remarked_on(
    finished: Path,
    image_folder: Path,
    small_spec: ModelSpec,
    data: ImageDataset,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    state = RunState.load(finished)
    for held_out, said in ((0.01, True), (0.9, False)):
        replace(state, config=replace(state.config, held_out=held_out)).save(tmp_path / "teacher")
        config = with_teacher(settings(image_folder, teacher=tmp_path / "teacher"))
        trainer(new_run(config, small_spec, data), data, tmp_path / "run")
        assert ("use --held-out 0.01" in capsys.readouterr().err) == said
