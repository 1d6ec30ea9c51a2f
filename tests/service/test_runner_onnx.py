import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from model_core.package import Package
from model_core.tree import Segment
from service.errors import RunnerError
from service.runners.joined import segment_graph
from service.runners.onnx import OnnxRunner


@pytest.fixture
def copied(package: Package, tmp_path: Path) -> Package:
    return Package.load(shutil.copytree(package.root, tmp_path / "copy"))


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


def test_steps_that_do_not_fit_together_are_named(copied: Package) -> None:
    copied.step(5).write_bytes(b"no graph")
    with pytest.raises(RunnerError, match=r"04\.onnx: cannot be joined with those up to 05\.onnx: ."):
        segment_graph(copied, Segment(4, 2), ())


def test_serving_from_it_needs_no_torch() -> None:
    program = "import sys, service.delivery, service.runners.onnx; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
