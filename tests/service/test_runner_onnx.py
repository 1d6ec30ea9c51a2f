import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from model_core.depth_first import refine
from model_core.grouped import HierarchicalEnsemble
from model_core.package import Package
from model_core.tree import Segment
from service.errors import RunnerError
from service.runners.onnx import OnnxRunner
from tests.service.engines import images


@pytest.fixture
def runner(package: Package) -> Iterator[OnnxRunner]:
    runner = OnnxRunner(package, threads=2)
    yield runner
    runner.close()


@pytest.fixture
def copied(package: Package, tmp_path: Path) -> Package:
    return Package.load(shutil.copytree(package.root, tmp_path / "copy"))


def test_its_steps_give_the_models_outputs(
    runner: OnnxRunner, package: Package, tiny_model: HierarchicalEnsemble
) -> None:
    tree, batch = package.manifest.spec.tree, images(3)
    kept, total = {-1: batch}, np.float32(0)
    for segment, expected in zip(runner.segments, refine(tiny_model, torch.from_numpy(batch)), strict=True):
        logits, activations = runner.run(segment, kept[tree.entry_block(segment.start) - 1])
        assert logits.shape == (1, 3, 10)
        assert {block: activation.shape[1:] for block, activation in activations.items()} == {
            block: runner.shapes[block] for block in tree.kept_blocks(segment)
        }
        kept |= activations
        total = total + logits[0]
        np.testing.assert_allclose(total / segment.stop, expected.numpy(), atol=1e-4)


def test_an_input_of_the_wrong_shape_names_the_step_and_the_runner_lives_on(runner: OnnxRunner) -> None:
    with pytest.raises(RunnerError, match=r"00\.onnx: .*dimensions"):
        runner.run(Segment(0), np.zeros((1, 3, 8, 9), np.float32))
    runner.run(Segment(0), images(1))


def test_a_truncated_step_is_named(copied: Package) -> None:
    copied.step(3).write_bytes(copied.step(3).read_bytes()[:1000])
    with pytest.raises(RunnerError, match=r"03\.onnx: ."):
        OnnxRunner(copied)


def test_a_step_of_another_leaf_is_named(copied: Package) -> None:
    copied.step(4).write_bytes(copied.step(3).read_bytes())
    with pytest.raises(RunnerError, match=r"04\.onnx: must take x and give logits, block_2, block_3"):
        OnnxRunner(copied)


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"classes": 11}, r"00\.onnx: gives logits of shape \(10,\) for 11 classes"),
        ({"input_shape": (3, 16, 16)}, r"00\.onnx: takes x of shape \(3, 32, 32\), .* starts from \(3, 16, 16\)"),
    ],
)
def test_graphs_of_another_shape_than_the_manifests_are_named(
    package: Package, change: dict[str, object], fault: str
) -> None:
    manifest = package.manifest.model_copy(update={"spec": package.manifest.spec.replace(**change)})
    with pytest.raises(RunnerError, match=fault):
        OnnxRunner(replace(package, manifest=manifest))


def test_serving_from_it_needs_no_torch() -> None:
    program = "import sys, service.delivery, service.runners.onnx; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
