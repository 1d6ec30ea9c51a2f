"""Checkpoints rebuild their model, and every kind of damage is named."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from model_core.build import build_model
from model_core.checkpoint import load_checkpoint, read_tensors, save_checkpoint, write_tensors
from model_core.errors import CheckpointError, SpecError
from model_core.grouped import HierarchicalEnsemble


@pytest.fixture
def saved(tmp_path: Path, tiny_model: HierarchicalEnsemble) -> Path:
    path = tmp_path / "model.safetensors"
    save_checkpoint(path, tiny_model, metadata={"epoch": "3"})
    return path


def test_a_model_comes_back_as_it_was(saved: Path, tiny_model: HierarchicalEnsemble) -> None:
    model, metadata = load_checkpoint(saved)
    assert metadata == {"epoch": "3"}
    assert model.spec == tiny_model.spec
    assert not model.training
    images = torch.randn(2, 3, 32, 32)
    with torch.inference_mode():
        assert torch.equal(model(images), tiny_model(images))


def test_a_loaded_model_can_be_trained_on(saved: Path) -> None:
    model, _ = load_checkpoint(saved)
    model.train()(torch.randn(2, 3, 32, 32)).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


def test_a_failed_write_leaves_the_old_file(saved: Path) -> None:
    before = saved.read_bytes()
    with pytest.raises(TypeError):
        write_tensors(saved, {"a": torch.zeros(2)}, {"epoch": 4})  # type: ignore[dict-item]  # not a string
    assert saved.read_bytes() == before


@pytest.mark.parametrize(
    ("damage", "fault"),
    [
        (lambda path: path.unlink(), "does not exist"),
        (lambda path: path.write_bytes(b"not tensors at all"), "corrupt or truncated"),
        (lambda path: path.write_bytes(path.read_bytes()[:-1000]), "corrupt or truncated"),
        (lambda path: path.write_bytes(b""), "corrupt or truncated"),
        (lambda path: save_file({"a": torch.zeros(1)}, path), "not one of our checkpoints"),
        (
            lambda path: save_file({"a": torch.zeros(1)}, path, {"format": "hne-checkpoint", "version": "99"}),
            "checkpoint version 99; this software reads version 1",
        ),
        (lambda path: write_tensors(path, {"a": torch.zeros(1)}, {}), "holds no model spec"),
        (lambda path: write_tensors(path, {"a": torch.zeros(1)}, {"spec": "{}"}), "invalid model spec"),
    ],
    ids=["missing", "not tensors", "truncated", "empty", "of others", "version", "no spec", "bad spec"],
)
def test_damage_is_named_with_the_file(saved: Path, damage: Callable[[Path], None], fault: str) -> None:
    damage(saved)
    with pytest.raises(CheckpointError, match=fault) as caught:
        load_checkpoint(saved)
    assert str(saved) in str(caught.value)


def test_weights_of_another_shape_are_refused(saved: Path, tiny_model: HierarchicalEnsemble) -> None:
    other = build_model(tiny_model.spec.replace(classes=7))
    write_tensors(saved, other.state_dict(), {"spec": tiny_model.spec.model_dump_json()})
    with pytest.raises(CheckpointError, match="does not fit its own spec 'hne_tiny'"):
        load_checkpoint(saved)


def test_a_family_without_builder_is_refused(saved: Path, tiny_model: HierarchicalEnsemble) -> None:
    spec = tiny_model.spec.replace(family="theirs")
    write_tensors(saved, tiny_model.state_dict(), {"spec": spec.model_dump_json()})
    with pytest.raises(SpecError, match="unknown family 'theirs'"):
        load_checkpoint(saved)


def test_tensors_come_back_bit_for_bit(tmp_path: Path) -> None:
    image = torch.randn(2, 3, 8, 8).to(memory_format=torch.channels_last)
    tensors = {"image": image, "view": image[0], "random": torch.get_rng_state()}
    write_tensors(tmp_path / "state.safetensors", tensors, {"a": "b"})
    read, metadata = read_tensors(tmp_path / "state.safetensors")
    assert metadata == {"a": "b"}
    assert all(torch.equal(read[name], tensor) for name, tensor in tensors.items())
