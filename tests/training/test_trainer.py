"""Training learns, and can be interrupted anywhere without changing the weights it ends with."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

import pytest
from torch import Tensor

from model_core.checkpoint import read_tensors, write_tensors
from model_core.errors import CheckpointError
from model_core.spec import ModelSpec
from tests.training.runs import CPU, STEPS, after, assert_same_state, read_log, settings, trainer
from training.data import ImageDataset, load_dataset
from training.errors import ConfigError, DataError, RunError
from training.evaluation import leaf_logits, prefix_accuracies
from training.images import FileImages
from training.progress import LOG_FILE
from training.run_state import STATE_FILE, RunState
from training.schedule import learning_rate
from training.trainer import new_run


def test_training_learns(image_folder: Path, small_spec: ModelSpec, data: ImageDataset, tmp_path: Path) -> None:
    config = settings(image_folder, epochs=6, lr=0.05)
    assert trainer(new_run(config, small_spec, data), data, tmp_path).train()
    accuracies = prefix_accuracies(*leaf_logits(RunState.load(tmp_path).model, data.test))
    assert accuracies[-1] > 0.9
    losses = [float(row["loss"]) for row in read_log(tmp_path)]
    assert losses == sorted(losses, reverse=True)


@pytest.mark.parametrize("stops", [[1], [4], [5], [7], [2, 3, 1]], ids=str)
def test_an_interrupted_run_ends_with_the_same_weights(
    stops: list[int], finished: Path, image_folder: Path, small_spec: ModelSpec, data: ImageDataset, tmp_path: Path
) -> None:
    state = new_run(settings(image_folder), small_spec, data)
    for steps in stops:
        assert not trainer(state, data, tmp_path, stop_requested=after(steps)).train()
        state = RunState.load(tmp_path)
    assert trainer(state, data, tmp_path).train()
    assert_same_state(finished, tmp_path)


def test_the_time_limit_stops_between_steps_and_saves(
    image_folder: Path, small_spec: ModelSpec, data: ImageDataset, tmp_path: Path
) -> None:
    run = trainer(new_run(settings(image_folder), small_spec, data), data, tmp_path, max_seconds=8.0)
    assert not run.train()
    assert 0 < run.position.step < STEPS
    assert RunState.load(tmp_path).position == run.position


def test_a_run_that_dies_while_it_saves_continues_from_the_save_before(
    finished: Path, image_folder: Path, small_spec: ModelSpec, data: ImageDataset, tmp_path: Path
) -> None:
    state = new_run(settings(image_folder), small_spec, data)
    assert not trainer(state, data, tmp_path, stop_requested=after(3)).train()
    # What kill -9 in the middle of the next save leaves behind: half a file under the temporary name.
    saved = (tmp_path / STATE_FILE).read_bytes()
    (tmp_path / f".{STATE_FILE}.part").write_bytes(saved[: len(saved) // 2])
    assert trainer(RunState.load(tmp_path), data, tmp_path).train()
    assert_same_state(finished, tmp_path)


def test_a_save_comes_at_least_every_interval(
    image_folder: Path, small_spec: ModelSpec, data: ImageDataset, tmp_path: Path
) -> None:
    steps_saved = []

    def note() -> bool:
        steps_saved.append(RunState.load(tmp_path).position[:2] if (tmp_path / STATE_FILE).exists() else None)
        return False

    config = settings(image_folder, epochs=1)
    trainer(new_run(config, small_spec, data), data, tmp_path, save_seconds=0.5, stop_requested=note).train()
    assert steps_saved == [None, (0, 1), (0, 2), (0, 3), (1, 0)]


def untimed(out: Path) -> list[dict[str, str]]:
    """The rows of a log without what they say of time."""
    return [{k: v for k, v in row.items() if k not in ("seconds", "images_per_second")} for row in read_log(out)]


def test_an_interrupted_run_leaves_the_log_of_one_that_was_not(
    image_folder: Path, small_spec: ModelSpec, data: ImageDataset, tmp_path: Path
) -> None:
    state, whole, parts = new_run(settings(image_folder), small_spec, data), tmp_path / "whole", tmp_path / "parts"
    assert trainer(state, data, whole, log_steps=2).train()
    assert [row["step"] for row in read_log(whole)] == ["2", "4", "5", "7", "9", "10"]

    state = new_run(settings(image_folder), small_spec, data)
    assert not trainer(state, data, parts, log_steps=2, stop_requested=after(3)).train()
    early = RunState.load(parts)
    assert not trainer(RunState.load(parts), data, parts, log_steps=2, stop_requested=after(3)).train()
    assert [row["step"] for row in read_log(parts)] == ["2", "4", "5"]
    assert trainer(early, data, parts, log_steps=2).train()  # as if killed before it could save again
    assert untimed(parts) == untimed(whole)


def test_a_run_that_dies_between_an_epochs_save_and_its_row_writes_the_row_later(
    image_folder: Path, small_spec: ModelSpec, data: ImageDataset, finished: Path, tmp_path: Path
) -> None:
    image = tmp_path / "broken.png"
    image.touch()
    held_out = FileImages([image] * 6, [0] * 6, data.preprocessing, size=(16, 16), device=CPU, workers=0)
    broken = replace(data, held_out=held_out)
    with pytest.raises(DataError, match="not a readable image"):
        trainer(new_run(settings(image_folder), small_spec, data), broken, tmp_path).train()
    state = RunState.load(tmp_path)
    assert state.position[:2] == (1, 0)
    assert read_log(tmp_path) == []
    with (tmp_path / LOG_FILE).open("a") as file:
        file.write("5,1,6,0.1")  # the beginning of the row, which a kill left
    assert trainer(state, data, tmp_path).train()
    assert untimed(tmp_path) == untimed(finished)
    assert_same_state(finished, tmp_path)


def test_an_unreadable_image_loses_nothing_that_was_learnt(
    image_folder: Path, small_spec: ModelSpec, data: ImageDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreadable(self: object, *arguments: object, **options: object) -> Iterator[tuple[Tensor, Tensor]]:
        yield from islice(batches(data.train, *arguments, **options), 2)  # type: ignore[arg-type]
        raise DataError("x.png: not a readable image")

    batches = type(data.train).training_batches
    run = trainer(new_run(settings(image_folder), small_spec, data), data, tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(type(data.train), "training_batches", unreadable)
        with pytest.raises(DataError, match="not a readable image"):
            run.train()
    assert RunState.load(tmp_path).position[:2] == (0, 2)


def test_where_epochs_are_short_the_held_out_images_are_not_evaluated_after_each(
    image_folder: Path, small_spec: ModelSpec, tmp_path: Path
) -> None:
    few = settings(image_folder, held_out=0.4, train_images=20, epochs=7)
    data = load_dataset(few, size=(16, 16), device=CPU)
    assert trainer(new_run(few, small_spec, data), data, tmp_path).train()
    evaluated = [row["epoch"] for row in read_log(tmp_path) if row["accuracy_full"]]
    assert evaluated == ["5", "7"], "24 images after each would be more than it trains on"


def test_a_training_that_diverges_says_so_and_keeps_the_last_sound_state(
    image_folder: Path, small_spec: ModelSpec, data: ImageDataset, tmp_path: Path
) -> None:
    config = settings(image_folder, lr=1e30)
    state = new_run(config, small_spec, data)
    assert not trainer(state, data, tmp_path, stop_requested=after(1)).train()
    before = (tmp_path / STATE_FILE).read_bytes()
    with pytest.raises(
        RunError, match=r"diverged by step 5, .* last sound state is kept; start anew with a lower --lr"
    ):
        trainer(RunState.load(tmp_path), data, tmp_path).train()
    assert (tmp_path / STATE_FILE).read_bytes() == before
    with pytest.raises(RunError, match="diverged by step 2"):
        trainer(RunState.load(tmp_path), data, tmp_path, log_steps=2).train()
    with pytest.raises(RunError, match="nothing was saved"):
        trainer(new_run(config, small_spec, data), data, tmp_path / "other").train()


@pytest.mark.parametrize("warmup", [0.0, 0.5])
@pytest.mark.parametrize("loss", ["i", "s"])
def test_the_log_tells_the_rate_of_the_schedule(
    loss: str, warmup: float, image_folder: Path, small_spec: ModelSpec, data: ImageDataset, tmp_path: Path
) -> None:
    config = settings(image_folder, loss=loss, epochs=1, warmup_epochs=warmup)
    assert trainer(new_run(config, small_spec, data), data, tmp_path, log_steps=2).train()
    rates = [learning_rate((step - 0.5) / STEPS, peak=0.1, epochs=1, warmup_epochs=warmup) for step in (2, 4, 5)]
    assert [float(row["lr"]) for row in read_log(tmp_path)] == pytest.approx(rates, rel=1e-5)


def test_each_level_has_the_rate_of_the_schedule_over_its_weight(
    image_folder: Path, small_spec: ModelSpec, data: ImageDataset, tmp_path: Path
) -> None:
    training = trainer(new_run(settings(image_folder, epochs=1, loss="s"), small_spec, data), data, tmp_path)
    assert training.train()
    groups = training.optimizer.param_groups
    assert len({group["weight"] for group in groups}) > 1
    last = learning_rate((STEPS - 0.5) / STEPS, peak=0.1, epochs=1)
    assert [group["lr"] * group["weight"] for group in groups] == pytest.approx([last] * len(groups))


def test_a_finished_run_has_nothing_left_to_do(finished: Path, data: ImageDataset) -> None:
    before = (finished / STATE_FILE).read_bytes()
    assert trainer(RunState.load(finished), data, finished).train()
    assert (finished / STATE_FILE).read_bytes() == before


def test_other_data_is_refused(finished: Path, image_folder: Path, tmp_path: Path) -> None:
    fewer = load_dataset(settings(image_folder, held_out=0.5), size=(16, 16), device=CPU)
    with pytest.raises(RunError, match=r"--data holds other data than it was trained on: .*, train 30 instead of 54"):
        trainer(RunState.load(finished), fewer, tmp_path)


def test_a_batch_larger_than_the_dataset_is_refused(
    image_folder: Path, small_spec: ModelSpec, data: ImageDataset, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="only 54 training images"):
        trainer(new_run(settings(image_folder, batch_size=100), small_spec, data), data, tmp_path)


def test_damaged_states_are_refused(finished: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="does not exist"):
        RunState.load(tmp_path)
    (tmp_path / STATE_FILE).write_bytes((finished / STATE_FILE).read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="corrupt or truncated"):
        RunState.load(tmp_path)


def test_the_seed_decides_the_weights(
    finished: Path, image_folder: Path, small_spec: ModelSpec, data: ImageDataset, tmp_path: Path
) -> None:
    other = new_run(settings(image_folder, seed=4), small_spec, data).model.state_dict()
    same = new_run(settings(image_folder), small_spec, data).model.state_dict()
    again = new_run(settings(image_folder), small_spec, data).model.state_dict()
    assert all(tensor.equal(again[name]) for name, tensor in same.items())
    assert not all(tensor.equal(other[name]) for name, tensor in same.items())


def test_a_run_stored_before_a_setting_existed_has_its_default(finished: Path, tmp_path: Path) -> None:
    tensors, metadata = read_tensors(finished / STATE_FILE)
    old = json.loads(metadata["config"])
    for name in (
        "prefixes",
        "teacher",
        "teacher_sha256",
        "teacher_weight",
        "label_smoothing",
        "mix",
        "mix_share",
        "ema",
        "swa",
        "swa_lr",
    ):
        del old[name]
    write_tensors(tmp_path / STATE_FILE, tensors, {**metadata, "config": json.dumps(old)})
    assert RunState.load(tmp_path).config == RunState.load(finished).config
