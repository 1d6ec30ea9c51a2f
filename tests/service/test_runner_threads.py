"""From which batch on several threads compute."""

import shutil
from pathlib import Path

import pytest

from model_core.package import Package
from service.errors import RunnerError
from service.runners.threads import BATCHES, first_batch_for, worthwhile_from


@pytest.mark.parametrize(
    ("times", "batch"),
    [
        ({1: (1.0, 2.0), 2: (2.0, 2.0), 4: (4.0, 3.0), 8: (8.0, 5.0)}, 4),
        ({1: (1.0, 0.5), 2: (2.0, 1.0)}, 1),
        ({1: (1.0, 0.5), 2: (2.0, 1.9), 4: (4.0, 2.5)}, 4),  # what looks good at one image is chance
        ({1: (1.0, 1.1), 2: (2.0, 1.9)}, None),
    ],
)
def test_it_pays_at_every_larger_batch(times: dict[int, tuple[float, float]], batch: int | None) -> None:
    assert worthwhile_from(times) == batch


def test_it_is_measured_with_the_packages_steps(package: Package) -> None:
    assert first_batch_for(1, package) is None
    assert first_batch_for(2, package) in (*BATCHES, None)


def test_a_step_that_cannot_be_loaded_is_named(package: Package, tmp_path: Path) -> None:
    copied = Package.load(shutil.copytree(package.root, tmp_path / "copy"))
    copied.step(0).write_bytes(b"")
    with pytest.raises(RunnerError, match=r"00\.onnx"):
        first_batch_for(2, copied)
