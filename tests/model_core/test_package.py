"""A package is served only if it is whole: every fault is named with its file. No torch needed to check."""

import json
import math
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from model_core.errors import PackageError
from model_core.package import Package, Preprocessing

COLOURS = {"mean": (0.5, 0.5, 0.5), "std": (0.25, 0.25, 0.25)}


@pytest.fixture
def package(tmp_path: Path, tiny_package: Path) -> Path:
    return Path(shutil.copytree(tiny_package, tmp_path / "package"))


def edit(package: Path, **changes: Any) -> None:
    path = package / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_whole_package_loads(package: Path) -> None:
    loaded = Package.load(package)
    assert loaded.manifest.spec.tree.leaves == 16
    assert loaded.manifest.cumulative_flops[0] == 0
    assert loaded.step(3).is_file()
    assert loaded.weights.is_file()


def test_a_package_is_identified_by_its_content(package: Path) -> None:
    before = Package.load(package).sha256
    edit(package, version="another")
    assert Package.load(package).sha256 != before


def test_a_package_of_before_resizes_the_shorter_side_still(package: Path) -> None:
    edit(package, preprocessing={"resize_shorter_side": 36} | COLOURS)
    assert Package.load(package).manifest.preprocessing == Preprocessing(resize_to_cover=(36, 36), **COLOURS)


def test_a_missing_manifest(tmp_path: Path) -> None:
    with pytest.raises(PackageError, match=r"manifest\.json: cannot be read .*is this a model package"):
        Package.load(tmp_path)


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"format_version": 2}, "format version 2 is not supported; this software reads version 1"),
        ({"surprise": 1}, "surprise: Extra inputs are not permitted"),
        ({"class_names": ["one"]}, "1 class names for 10 classes"),
        ({"table": []}, r"one row for each ensemble size 1\.\.16"),
        ({"files": {}}, r"names no digest for model\.safetensors"),
        ({"spec": {}}, r"spec\.name: Field required \(and"),
        ({"preprocessing": {"resize_to_cover": (8, 32), **COLOURS}}, r"\[8, 32\] does not cover .* \[32, 32\]"),
        ({"preprocessing": {"resize_to_cover": (32, 32), **COLOURS, "std": (0.2, 0, 0.2)}}, r"std\.1: .* greater than"),
        ({"preprocessing": {"resize_to_cover": (32, 32), **COLOURS, "mean": (0, 0, math.nan)}}, r"mean\.2: .* finite"),
    ],
)
def test_a_manifest_that_makes_no_sense(package: Path, changes: dict[str, Any], fault: str) -> None:
    edit(package, **changes)
    with pytest.raises(PackageError, match=fault):
        Package.load(package)


def test_flops_that_fall_are_refused(package: Path) -> None:
    table = json.loads((package / "manifest.json").read_text())["table"]
    table[5]["flops"] = 1
    edit(package, table=table)
    with pytest.raises(PackageError, match="FLOPs must not fall"):
        Package.load(package)


def test_every_step_has_a_digest(package: Path) -> None:
    files = json.loads((package / "manifest.json").read_text())["files"]
    del files["steps/07.onnx"]
    edit(package, files=files)
    with pytest.raises(PackageError, match=r"names no digest for steps/07\.onnx"):
        Package.load(package)


def test_broken_json(package: Path) -> None:
    (package / "manifest.json").write_text("{")
    with pytest.raises(PackageError, match="manifest: Invalid JSON"):
        Package.load(package)


@pytest.mark.parametrize("name", ["model.safetensors", "steps/07.onnx"])
def test_damaged_files(package: Path, name: str) -> None:
    path = package / name
    content = path.read_bytes()
    path.write_bytes(content[:-1])
    with pytest.raises(PackageError, match=f"{name}: has .* bytes.*truncated"):
        Package.load(package)
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with pytest.raises(PackageError, match=f"{name}: does not match its SHA-256"):
        Package.load(package)
    path.unlink()
    with pytest.raises(PackageError, match=f"{name}: is missing"):
        Package.load(package)


def test_files_outside_the_package_are_refused(package: Path) -> None:
    files = json.loads((package / "manifest.json").read_text())["files"]
    edit(package, files=files | {"../secret": {"bytes": 1, "sha256": "0"}})
    with pytest.raises(PackageError, match="lies outside the package"):
        Package.load(package)


def test_loading_imports_no_torch(package: Path) -> None:
    code = f"""
import sys
import model_core
from model_core.package import Package
Package.load({str(package)!r})
sys.exit(any(name.split('.')[0] in ('torch', 'safetensors', 'onnx') for name in sys.modules))
"""
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])
