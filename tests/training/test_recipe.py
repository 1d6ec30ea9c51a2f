"""Training with more than the paper's recipe: averaged weights, mixed images, networks that draw by themselves."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from model_core.grouped import HierarchicalEnsemble
from model_core.spec import ModelSpec
from model_core.zoo import architecture
from tests.packages import install, site
from tests.training.runs import EPOCHS, STEPS, after, assert_same_state, settings, trainer
from training.data import ImageDataset
from training.evaluation import leaf_logits
from training.images import Images
from training.run_state import RunState
from training.trainer import new_run

HNE_PLUS = {"ema": 0.9, "label_smoothing": 0.1, "mix": "cutmix", "prefixes": "all"}


@pytest.mark.parametrize(
    "changes",
    [HNE_PLUS, {"mix": "mixup", "loss": "boosted", "ema": 0.99}, {"swa": 0.75, "swa_lr": 0.02}],
    ids=["plus", "boosted", "swa"],
)
def test_the_better_recipe_resumes_to_the_same_weights_and_the_same_average(
    changes: dict[str, object], image_folder: Path, small_spec: ModelSpec, data: ImageDataset, tmp_path: Path
) -> None:
    config = settings(image_folder, **changes)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert trainer(new_run(config, small_spec, data), data, whole).train()
    state = new_run(config, small_spec, data)
    for steps in (2, 4):
        assert not trainer(state, data, parts, stop_requested=after(steps)).train()
        state = RunState.load(parts)
    assert trainer(state, data, parts).train()
    assert_same_state(whole, parts)


def test_the_average_is_the_result_and_lags_behind_the_weights(
    image_folder: Path, small_spec: ModelSpec, data: ImageDataset, tmp_path: Path
) -> None:
    state = new_run(settings(image_folder, ema=0.9), small_spec, data)
    name = "blocks.0.layers.0.norm.running_mean"
    seen: list[Tensor] = []

    def note() -> bool:
        seen.append(state.model.state_dict()[name].clone())
        return False

    run = trainer(state, data, tmp_path, stop_requested=note)
    assert run.train()
    stored = RunState.load(tmp_path)
    assert len(seen) == EPOCHS * STEPS
    expected = torch.zeros_like(seen[0])
    for step, value in enumerate(seen):
        decay = min(0.9, (1 + step) / (10 + step))
        expected = decay * expected + (1 - decay) * value
    torch.testing.assert_close(stored.result().state_dict()[name], expected)
    assert not stored.model.state_dict()[name].equal(expected)
    assert stored.result().state_dict()["blocks.0.layers.0.norm.num_batches_tracked"] == EPOCHS * STEPS


def test_the_log_tells_the_accuracy_of_the_average(
    image_folder: Path, small_spec: ModelSpec, data: ImageDataset, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured: list[object] = []

    def noted(model: HierarchicalEnsemble, images: Images, *, bf16: bool) -> tuple[Tensor, Tensor]:
        measured.append(model)
        return leaf_logits(model, images, bf16=bf16)

    monkeypatch.setattr("training.trainer.leaf_logits", noted)
    run = trainer(new_run(settings(image_folder, ema=0.9), small_spec, data), data, tmp_path)
    assert run.train()
    assert run.average is not None
    assert measured == [run.average.model] * EPOCHS


def test_every_step_mixes_in_its_own_proportion(
    image_folder: Path, small_spec: ModelSpec, data: ImageDataset, tmp_path: Path
) -> None:
    run = trainer(new_run(settings(image_folder, mix="mixup", mix_share=1.0), small_spec, data), data, tmp_path)
    of_step, shares = run.loss, []

    def loss(images: Tensor, targets: Tensor) -> Tensor:
        shares.append(targets.max(dim=1).values.min().item())
        return of_step(images, targets)

    run.loss = loss  # type: ignore[assignment]
    assert run.train()
    assert len(set(shares)) == EPOCHS * STEPS


DRAWING = """
from torch import nn

from model_core.custom import replicated
from model_core.spec import ModelSpec

SPEC = ModelSpec(name="drawing", family="drawing", branching=(1, 2), classes=3, input_shape=(3, 16, 16))


def blocks(spec):
    stem = lambda: nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Dropout(0.5))
    head = lambda: nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, spec.classes))
    return replicated(spec, [stem, head])
"""


def test_a_network_that_draws_by_itself_resumes_to_the_same_weights(
    image_folder: Path, data: ImageDataset, tmp_path: Path
) -> None:
    declared = {
        "hne_serve.architectures": {"drawing": "drawing:SPEC"},
        "hne_serve.families": {"drawing": "drawing:blocks"},
    }
    install(tmp_path / "site", "drawing", {"drawing.py": DRAWING}, declared)
    config, whole, parts = settings(image_folder), tmp_path / "whole", tmp_path / "parts"
    with site(tmp_path / "site"):
        spec = architecture("drawing")
        assert trainer(new_run(config, spec, data), data, whole).train()
        assert not trainer(new_run(config, spec, data), data, parts, stop_requested=after(3)).train()
        torch.manual_seed(123)  # another process has drawn something else
        assert trainer(RunState.load(parts), data, parts).train()
        assert_same_state(whole, parts)
