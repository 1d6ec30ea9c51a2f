"""The README's network of your own, from its declaration to an answer: trained, studied, exported, served by every
runner that a CPU has."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import numpy as np
import pytest
import torch

from model_core.depth_first import refine
from model_core.package import Package
from model_core.tree import Segment
from service.errors import RunnerError
from service.runners import Array, Runner
from service.runners.onnx import OnnxRunner
from service.runners.pytorch import PyTorchRunner
from tests.packages import install, site
from training.cli import main
from training.run_state import RunState

README = (Path(__file__).parents[2] / "README.md").read_text()
SETTINGS = "--epochs 1 --batch-size 12 --precision float32 --device cpu --threads 1"


def block(language: str, first: str) -> str:
    """A block of code in the README, by its language and first line."""
    found = re.search(rf"^```{language}\n{re.escape(first)}\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
    assert found is not None
    return found[1]


def refinements(runner: Runner, package: Package, images: Array) -> list[Array]:
    """The ensemble's outputs y_1..y_N, each (B, K)."""
    runner.reserve(len(images))
    rows = slice(0, len(images))
    leaves = [
        runner.run(Segment(leaf), rows, None if leaf else images)[0]
        for leaf in range(package.manifest.spec.tree.leaves)
    ]
    runner.close()
    return [np.mean(leaves[:size], axis=0) for size in range(1, len(leaves) + 1)]


def test_the_readmes_network_is_trained_and_served(
    image_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    declared = tomllib.loads(block("toml", "# pyproject.toml of mypackage"))["project"]["entry-points"]
    network = block("python", "# mypackage/network.py")
    install(tmp_path / "site", "mypackage", {"mypackage/__init__.py": "", "mypackage/network.py": network}, declared)
    run, out, studies = tmp_path / "run", tmp_path / "package", tmp_path / "studies"
    data = f"--dataset folder --data {image_folder}"
    images = np.random.default_rng(0).standard_normal((3, 3, 32, 32), np.float32)

    with site(tmp_path / "site"):
        assert main(f"train --architecture mine {data} {SETTINGS} --out {run}".split()) == 0
        assert main(f"evaluate --run {run}".split()) == 0
        assert main(f"export --run {run} --out {out}".split()) == 0
        assert main(f"study transformer --architecture mine {data} {SETTINGS} --out {studies}".split()) == 0
        (table,) = studies.glob("*/transformer.md")
        assert "mine instead of hne_transformer" in table.read_text()
        package = Package.load(out)
        expected = [y.numpy() for y in refine(RunState.load(run).result(), torch.from_numpy(images))]
        with_torch = refinements(PyTorchRunner(package, device="cpu"), package, images)

    # Not installed any more: the graphs stand for themselves.
    with_onnx = refinements(OnnxRunner(package), package, images)
    assert len(expected) == len(with_torch) == len(with_onnx) == 4
    np.testing.assert_allclose(with_torch, expected, atol=1e-4)
    np.testing.assert_allclose(with_onnx, expected, atol=1e-4)

    with pytest.raises(RunnerError, match="unknown family 'mine'"):
        PyTorchRunner(package, device="cpu")
    capsys.readouterr()
    assert main(f"evaluate --run {run}".split()) == 2
    assert "unknown family 'mine'" in (error := capsys.readouterr().err)
    assert error.count("\n") == 1


@pytest.mark.parametrize("command", ["train", "study table1"])
def test_a_network_that_takes_no_rgb_is_refused_before_any_image_is_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], command: str
) -> None:
    network = block("python", "# mypackage/network.py").replace("(3, 32, 32)", "(1, 32, 32)")
    declared = tomllib.loads(block("toml", "# pyproject.toml of mypackage"))["project"]["entry-points"]
    install(tmp_path / "site", "mypackage", {"mypackage/__init__.py": "", "mypackage/network.py": network}, declared)
    words = f"{command} --architecture mine --dataset folder --data {tmp_path / 'none'} --out {tmp_path / 'out'}"
    with site(tmp_path / "site"):
        assert main(words.split()) == 2
    fault = "--architecture mine: takes images of 1 channels, but they are read as RGB; let it take 3"
    assert capsys.readouterr().err == f"hne-train: {fault}\n"
