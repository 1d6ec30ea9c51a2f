"""The model package: the folder that training hands to serving. No torch.

    manifest.json         this module's `Manifest`: spec, classes, preprocessing, cost and accuracy table, digests
    model.safetensors     the weights
    steps/NN.onnx         one graph per depth-first step NN = 00..N-1; no weight twice
    README.md             the model card

A step's graph takes `x` (B, ...), the image or the activation of the node it starts from, and returns
`logits` (B, K) of its leaf, and `block_b` for every block b whose activation later steps start from.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, JsonValue, ValidationError, model_validator

from model_core.errors import PackageError
from model_core.spec import ModelSpec

__all__ = [
    "EnsembleFigures",
    "FileDigest",
    "Manifest",
    "Package",
    "Preprocessing",
    "digest",
    "step_file",
    "write_manifest",
]

MANIFEST = "manifest.json"
WEIGHTS = "model.safetensors"
CARD = "README.md"


Side = Annotated[int, Field(ge=1)]
Scale = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class _Strict(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class FileDigest(_Strict):
    """Size in bytes and SHA-256 of one file of the package."""

    bytes: int
    sha256: str


class Preprocessing(_Strict):
    """From a decoded RGB image to the network's input.

    It is resized in proportion until it just covers `resize_to_cover` (height, width), the centre of the spec's
    height and width is cut out, values are scaled to 0..1, then `(value - mean) / std` per channel.
    """

    resize_to_cover: tuple[Side, Side]
    mean: tuple[FiniteFloat, FiniteFloat, FiniteFloat]
    std: tuple[Scale, Scale, Scale]

    @model_validator(mode="before")
    @classmethod
    def _square(cls, values: Any) -> Any:
        """Older packages name what the shorter side becomes, whatever the input's shape: they cover a square."""
        if isinstance(values, dict) and "resize_shorter_side" in values and "resize_to_cover" not in values:
            values = dict(values)
            values["resize_to_cover"] = (values.pop("resize_shorter_side"),) * 2
        return values


class EnsembleFigures(_Strict):
    """What one ensemble size costs and what it is worth.

    `flops` are multiply-adds for one image, all steps up to this size. Accuracy (0..1), negative
    log-likelihood (nats) and expected calibration error (0..1) were measured on `Manifest.evaluated_on`,
    `temperature` fitted on data held out from training: probabilities are softmax(y_n / temperature).
    """

    ensemble_size: int
    flops: int = Field(ge=0)
    accuracy: float = Field(ge=0, le=1)
    nll: float = Field(ge=0)
    ece: float = Field(ge=0, le=1)
    temperature: float = Field(gt=0)


class Manifest(_Strict):
    """Everything about a package that is not a weight."""

    format_version: Literal[1] = 1
    name: str = Field(min_length=1)
    version: str = Field(min_length=1)
    spec: ModelSpec
    class_names: tuple[str, ...]
    preprocessing: Preprocessing
    table: tuple[EnsembleFigures, ...]
    evaluated_on: str
    training: dict[str, JsonValue]
    files: dict[str, FileDigest]

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        leaves = self.spec.tree.leaves
        if [row.ensemble_size for row in self.table] != list(range(1, leaves + 1)):
            raise ValueError(f"the table must have one row for each ensemble size 1..{leaves}")
        costs = [row.flops for row in self.table]
        if sorted(costs) != costs:
            raise ValueError("FLOPs must not fall as the ensemble grows")
        channels, *sides = self.spec.input_shape
        if channels != 3:
            raise ValueError(f"the network takes {channels} channels; images are RGB")
        cover = self.preprocessing.resize_to_cover
        if any(covered < side for covered, side in zip(cover, sides, strict=True)):
            raise ValueError(f"resize_to_cover {list(cover)} does not cover the network's input {sides}")
        if len(self.class_names) != self.spec.classes:
            raise ValueError(f"{len(self.class_names)} class names for {self.spec.classes} classes")
        return self

    @property
    def cumulative_flops(self) -> tuple[int, ...]:
        """Multiply-adds spent at ensemble size 0, 1, ..., N."""
        return (0, *(row.flops for row in self.table))


def step_file(step: int) -> str:
    """Name of a step's graph inside a package."""
    return f"steps/{step:02d}.onnx"


def digest(path: Path) -> FileDigest:
    """Size and SHA-256 of a file."""
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    return FileDigest(bytes=path.stat().st_size, sha256=sha256)


@dataclass(frozen=True, slots=True, kw_only=True)
class Package:
    """A package on disk whose manifest and digests have been checked."""

    root: Path
    manifest: Manifest
    sha256: str
    """SHA-256 of the manifest, which names the digests of everything else: the package's identity."""

    @property
    def weights(self) -> Path:
        """The safetensors file."""
        return self.root / WEIGHTS

    def step(self, step: int) -> Path:
        """The ONNX graph of a step."""
        return self.root / step_file(step)

    @classmethod
    def load(cls, root: Path | str) -> Package:
        """Read and check a package.

        Raises:
            PackageError: a file is missing, corrupt, of another version, or not the one the manifest names.
        """
        root = Path(root)
        path = root / MANIFEST
        try:
            text = path.read_bytes()
        except OSError as error:
            raise PackageError(path, f"cannot be read ({error.strerror}); is this a model package?") from error
        try:
            manifest = Manifest.model_validate_json(text)
        except ValidationError as error:
            raise PackageError(path, _first_fault(error)) from error
        needed = [WEIGHTS, *(step_file(step) for step in range(manifest.spec.tree.leaves))]
        for name in needed:
            if name not in manifest.files:
                raise PackageError(path, f"names no digest for {name}")
        for name, expected in manifest.files.items():
            _check_file(root, name, expected)
        return cls(root=root, manifest=manifest, sha256=hashlib.sha256(text).hexdigest())


def write_manifest(root: Path, manifest: Manifest) -> None:
    """Write `manifest.json` so that a reader sees the old one or the new one, never a part."""
    temporary = root / f".{MANIFEST}.part"
    temporary.write_text(manifest.model_dump_json(indent=1) + "\n", encoding="utf-8")
    os.replace(temporary, root / MANIFEST)


def _check_file(root: Path, name: str, expected: FileDigest) -> None:
    path = root / name
    if not path.resolve().is_relative_to(root.resolve()):
        raise PackageError(path, "lies outside the package")
    if not path.is_file():
        raise PackageError(path, "is missing")
    actual = digest(path)
    if actual.bytes != expected.bytes:
        raise PackageError(
            path, f"has {actual.bytes} bytes, the manifest says {expected.bytes}: truncated or replaced?"
        )
    if actual.sha256 != expected.sha256:
        raise PackageError(path, "does not match its SHA-256 in the manifest: corrupt or replaced?")


def _first_fault(error: ValidationError) -> str:
    faults = error.errors()
    first = faults[0]
    where = ".".join(str(part) for part in first["loc"]) or "manifest"
    if where == "format_version":
        return f"format version {first['input']!r} is not supported; this software reads version 1"
    more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
    return f"{where}: {first['msg']}{more}"
