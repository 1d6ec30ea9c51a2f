"""Checkpoints: tensors in safetensors with the spec that rebuilds the model in the header. Never pickle.

Written to a temporary file, flushed to disk and renamed: a crash leaves the old file or the new one.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

import torch
from pydantic import ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from model_core.build import build_model
from model_core.errors import CheckpointError, SpecError
from model_core.grouped import HierarchicalEnsemble
from model_core.spec import ModelSpec

__all__ = ["load_checkpoint", "model_from", "read_tensors", "save_checkpoint", "write_tensors"]

FORMAT = "hne-checkpoint"
VERSION = "1"


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write tensors and string metadata atomically, stamped with this format and version."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.part")
    stamped = {"format": FORMAT, "version": VERSION, **metadata}
    # Views of one storage (and channels_last strides) are refused by safetensors: give each tensor its own. Its
    # `save_file` would make a file that only its owner can read, whatever the umask.
    apart = {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()
    }
    content = save(apart, stamped)
    with temporary.open("wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read what `write_tensors` wrote.

    Raises:
        CheckpointError: missing, corrupt, truncated, not a checkpoint, or of another version.
    """
    if not path.is_file():
        raise CheckpointError(path, "does not exist")
    try:
        with safe_open(path, framework="pt") as file:
            metadata = dict(file.metadata() or {})
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
    except (SafetensorError, OSError) as error:
        raise CheckpointError(path, f"is corrupt or truncated ({error})") from error
    if metadata.pop("format", None) != FORMAT:
        raise CheckpointError(path, "is a safetensors file, but not one of our checkpoints (no format in its header)")
    if (version := metadata.pop("version", None)) != VERSION:
        raise CheckpointError(path, f"has checkpoint version {version}; this software reads version {VERSION}")
    return tensors, metadata


def save_checkpoint(path: Path, model: HierarchicalEnsemble, *, metadata: Mapping[str, str] | None = None) -> None:
    """Write a model's weights with its spec, and any metadata of the caller's."""
    write_tensors(path, model.state_dict(), {**(metadata or {}), "spec": model.spec.model_dump_json()})


def load_checkpoint(path: Path) -> tuple[HierarchicalEnsemble, dict[str, str]]:
    """Rebuild a model, in evaluation mode, and the caller's metadata.

    Raises:
        CheckpointError: the file cannot be read, or its tensors do not fit its spec.
        SpecError: its family has no builder here.
    """
    tensors, metadata = read_tensors(path)
    return model_from(path, tensors, metadata.pop("spec", None)), metadata


def model_from(path: Path, tensors: Mapping[str, Tensor], spec_json: str | None) -> HierarchicalEnsemble:
    """The model of a spec in JSON with the given weights, in evaluation mode. `path` is for the errors.

    Raises:
        CheckpointError: no spec, an invalid one, or tensors that do not fit it.
        SpecError: its family has no builder here.
    """
    if spec_json is None:
        raise CheckpointError(path, "holds no model spec")
    try:
        spec = ModelSpec.model_validate_json(spec_json)
    except (ValidationError, SpecError) as error:
        raise CheckpointError(path, f"holds an invalid model spec: {error}") from error
    with torch.random.fork_rng(devices=[]):  # not on "meta": a network of one's own may hold tensors that nobody stores
        model = build_model(spec)
    try:
        model.load_state_dict(dict(tensors))  # copied: assigned, weights that layers share would part
    except RuntimeError as error:
        raise CheckpointError(path, f"does not fit its own spec {spec.name!r}: {error}") from error
    return model.eval()
