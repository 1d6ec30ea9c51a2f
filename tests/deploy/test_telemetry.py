"""Neither serving nor training lets ONNX Runtime report on its users: no identifier, no queue of events on disk."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

COMPUTE_A_STEP = """
import {package}
import sys
import onnxruntime
onnxruntime.InferenceSession(sys.argv[1], providers=["CPUExecutionProvider"])
"""


@pytest.mark.parametrize("package", ["service", "training"])
def test_nothing_is_collected(package: str, tiny_package: Path, tmp_path: Path) -> None:
    outside = {"PATH": os.environ["PATH"], "PYTHONPATH": str(Path(__file__).parents[2]), "HOME": str(tmp_path)}
    script = COMPUTE_A_STEP.format(package=package)
    subprocess.run([sys.executable, "-c", script, tiny_package / "steps" / "00.onnx"], env=outside, check=True)
    assert not list(tmp_path.rglob("*"))
