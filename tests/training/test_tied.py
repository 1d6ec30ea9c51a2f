"""A network whose layers share weights, which a state names more than once: trained, stopped, resumed, exported."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from tests.packages import install, site
from tests.training.runs import CPU, after, assert_same_state, settings, trainer
from training.averaging import WeightAverage
from training.cli import main
from training.data import ImageDataset
from training.run import spec_of
from training.run_state import RunState
from training.trainer import new_run

NETWORK = """
from torch import nn

from model_core.custom import replicated
from model_core.spec import ModelSpec

SPEC = ModelSpec(name="tied", family="tied", branching=(1, 2, 2), classes=3, input_shape=(3, 16, 16))


def stem():
    return nn.Conv2d(3, 4, 3, padding=1)


def stage():
    layer = nn.Sequential(nn.Conv2d(4, 4, 3, padding=1), nn.ReLU())
    return nn.Sequential(layer, layer)


def blocks(spec):
    return replicated(spec, [stem, stage, lambda: Head(spec.classes)])


class Head(nn.Module):
    def __init__(self, classes):
        super().__init__()
        self.one, self.other = nn.Linear(4, 4), nn.Linear(4, 4, bias=False)
        self.other.weight = self.one.weight
        self.last = nn.Linear(4, classes)

    def forward(self, x):
        return self.last(self.other(self.one(x.mean((2, 3))).relu()).relu())
"""


@pytest.fixture(autouse=True)
def network(tmp_path: Path) -> Iterator[None]:
    """`tied`, as an installed package: one module twice, and two modules with one weight."""
    declared = {
        "hne_serve.architectures": {"tied": "mypackage:SPEC"},
        "hne_serve.families": {"tied": "mypackage:blocks"},
    }
    install(tmp_path / "site", "mypackage", {"mypackage.py": NETWORK}, declared)
    with site(tmp_path / "site"):
        yield


def begun(image_folder: Path, data: ImageDataset, **changes: object) -> RunState:
    config = settings(image_folder, architecture="tied", loss="hd", **changes)
    return new_run(config, spec_of(config), data)


@pytest.mark.parametrize("average", [{}, {"ema": 0.9}, {"swa": 0.5}], ids=["none", "ema", "swa"])
def test_a_resumed_run_ends_like_one_that_was_not_stopped(
    image_folder: Path, data: ImageDataset, tmp_path: Path, average: dict[str, float]
) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    assert trainer(begun(image_folder, data, **average), data, whole).train()
    assert not trainer(begun(image_folder, data, **average), data, parts, stop_requested=after(3)).train()
    assert trainer(RunState.load(parts), data, parts).train()
    assert_same_state(whole, parts)
    for model in (RunState.load(parts).model, RunState.load(parts).result()):
        tensors = model.state_dict()
        assert tensors["blocks.2.branches.0.one.weight"].equal(tensors["blocks.2.branches.0.other.weight"])


def test_a_shared_weight_is_averaged_once_in_a_step(image_folder: Path, data: ImageDataset) -> None:
    model = begun(image_folder, data).model
    weight = model.get_parameter("blocks.1.branches.0.0.0.weight")
    weight.data.zero_()
    average = WeightAverage(model, decay=None, stored={})
    for step, value in enumerate((1.0, 2.0, 6.0)):
        weight.data.fill_(value)
        average.update(step)
    mean = average.model.get_parameter("blocks.1.branches.0.0.0.weight")
    torch.testing.assert_close(mean, torch.full_like(mean, 3.0))


def test_it_is_trained_evaluated_exported_and_started_from(
    image_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run, package, again = tmp_path / "run", tmp_path / "package", tmp_path / "again"
    train = f"train --architecture tied --dataset folder --data {image_folder} --epochs 1 --batch-size 12 --device cpu"
    assert main(f"{train} --threads 1 --ema 0.9 --out {run}".split()) == 0
    assert main(f"evaluate --run {run}".split()) == 0
    assert main(f"export --run {run} --out {package}".split()) == 0
    for source in (run, package):
        assert main(f"{train} --threads 1 --initial {source} --lr 1e-9 --out {again / source.name}".split()) == 0
        started = RunState.load(again / source.name).model
        images = torch.randn(2, 3, 16, 16, device=CPU)
        torch.testing.assert_close(started.eval()(images), RunState.load(run).result()(images), atol=1e-4, rtol=1e-4)
