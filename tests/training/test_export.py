"""An exported package computes what the model computes, or is not written."""

from pathlib import Path
from shutil import rmtree
from typing import Any

import numpy as np
import onnx
import pytest
import torch

from model_core.checkpoint import load_checkpoint
from model_core.depth_first import refine
from model_core.grouped import HierarchicalEnsemble
from model_core.package import Package
from model_core.tree import Segment
from tests.models import calibrated_model
from training.errors import ExportError
from training.export import export_package, run_steps


def arguments(package: Path) -> dict[str, Any]:
    """What made an existing package, to make another like it."""
    manifest = Package.load(package).manifest
    fields = ("name", "version", "class_names", "preprocessing", "table", "evaluated_on", "training")
    return {name: getattr(manifest, name) for name in fields} | {"images": torch.randn(2, 3, 32, 32)}


def test_the_steps_compute_what_the_model_computes(tiny_package: Path, tiny_model: HierarchicalEnsemble) -> None:
    images = torch.randn(5, 3, 32, 32)
    outputs = run_steps(tiny_package, tiny_model.tree, images.numpy())
    for ours, theirs in zip(outputs, refine(tiny_model, images), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-4)


def test_the_card_says_what_the_model_knows_and_sees(tiny_package: Path) -> None:
    card, manifest = (tiny_package / "README.md").read_text(), Package.load(tiny_package).manifest
    assert f"It knows 10 classes and takes every image for one of them: {', '.join(manifest.class_names)}." in card
    assert "It sees 32 x 32 pixels" in card
    assert f"| 16 | {manifest.table[15].flops / 1e6:.1f} | {100 * manifest.table[15].accuracy:.2f} |" in card


def test_no_weight_is_stored_twice(tiny_package: Path, tiny_model: HierarchicalEnsemble) -> None:
    sizes = [
        sum(
            int(np.prod(weight.dims)) for weight in onnx.load(tiny_package / f"steps/{step:02d}.onnx").graph.initializer
        )
        for step in range(16)
    ]
    folded_away = sum(
        p.numel() for m in tiny_model.modules() if isinstance(m, torch.nn.BatchNorm2d) for p in [m.weight]
    )
    trained = sum(parameter.numel() for parameter in tiny_model.parameters())
    assert sum(sizes) == pytest.approx(trained - folded_away, rel=0.01)


def test_graphs_name_their_activations_and_no_path_of_this_machine(
    tiny_package: Path, tiny_model: HierarchicalEnsemble
) -> None:
    for step in range(16):
        path = tiny_package / f"steps/{step:02d}.onnx"
        kept = tiny_model.tree.kept_blocks(Segment(step))
        assert [o.name for o in onnx.load(path).graph.output] == ["logits", *(f"block_{block}" for block in kept)]
        assert str(Path(__file__).parents[2]).encode() not in path.read_bytes()


def test_the_weights_rebuild_the_model(tiny_package: Path, tiny_model: HierarchicalEnsemble) -> None:
    model, _ = load_checkpoint(Package.load(tiny_package).weights)
    images = torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        assert torch.equal(model(images), tiny_model(images))


def test_an_existing_package_is_not_overwritten_unasked(tiny_package: Path, tiny_model: HierarchicalEnsemble) -> None:
    before = (tiny_package / "manifest.json").read_bytes()
    with pytest.raises(ExportError, match="already exists"):
        export_package(tiny_model, tiny_package, **arguments(tiny_package))
    assert (tiny_package / "manifest.json").read_bytes() == before


def test_only_a_package_is_ever_overwritten(
    tmp_path: Path, tiny_package: Path, tiny_model: HierarchicalEnsemble
) -> None:
    (tmp_path / "run.safetensors").write_bytes(b"weeks of training")
    with pytest.raises(ExportError, match="no model package"):
        export_package(tiny_model, tmp_path, **arguments(tiny_package), overwrite=True)
    assert (tmp_path / "run.safetensors").read_bytes() == b"weeks of training"


def test_the_old_package_is_deleted_when_the_new_one_is_in_its_place(
    tmp_path: Path, tiny_package: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, out, delete, seen = calibrated_model("hne_tiny", branching=(1, 1, 1, 1, 2)), tmp_path / "p", rmtree, []
    given = arguments(tiny_package) | {"table": Package.load(tiny_package).manifest.table[:2]}

    def deleting(path: Path, ignore_errors: bool = False) -> None:
        if (path / "manifest.json").is_file():
            seen.append(Package.load(out).manifest.version)
        delete(path, ignore_errors)

    monkeypatch.setattr("training.export.shutil.rmtree", deleting)
    for version in ("1", "2"):
        export_package(model, out, **(given | {"version": version}), overwrite=True)
    assert seen == ["2"]
    assert [path.name for path in tmp_path.iterdir()] == ["p"]


def test_a_model_that_gives_no_numbers_is_not_exported(tmp_path: Path, tiny_package: Path) -> None:
    model = calibrated_model("hne_tiny", branching=(1, 1, 1, 1, 2))
    with torch.no_grad():
        next(model.block(4).parameters())[0] = torch.nan
    table = Package.load(tiny_package).manifest.table[:2]
    with pytest.raises(ExportError, match=r"ensemble size 1: .* differs from torch"):
        export_package(model, tmp_path / "broken", **(arguments(tiny_package) | {"table": table}))
    assert not (tmp_path / "broken").exists()


def test_a_custom_family_exports_too(tmp_path: Path, tiny_package: Path) -> None:
    model = calibrated_model("hne_transformer", branching=(1, 1, 1, 2))
    table = Package.load(tiny_package).manifest.table[:2]
    package = export_package(model, tmp_path / "vit", **(arguments(tiny_package) | {"table": table}))
    images = torch.randn(3, 3, 32, 32)
    for ours, theirs in zip(run_steps(package.root, model.tree, images.numpy()), refine(model, images), strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-4)
