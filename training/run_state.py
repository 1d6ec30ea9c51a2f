"""The resumable state of a run, on disk: one safetensors file in the run's folder, replaced atomically.

It holds weights, their average if one is kept, momentum, settings, what the data looked like and the position. Random
numbers follow from seed and position (`randomness`), the learning rate from the position, so nothing else is needed to
continue, on a CPU with as many threads bit for bit. `evaluate` and `export` read the same file, at any moment of the
training.
"""

from __future__ import annotations

import json
import os
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from textwrap import shorten
from typing import NamedTuple

from pydantic import BaseModel, ConfigDict, ValidationError
from torch import Tensor

from model_core.checkpoint import load_checkpoint, model_from, read_tensors, write_tensors
from model_core.errors import CheckpointError
from model_core.grouped import HierarchicalEnsemble
from model_core.package import MANIFEST, Package, Preprocessing, digest
from training.config import TrainConfig
from training.data import ImageDataset
from training.errors import ConfigError, RunError

__all__ = [
    "STATE_FILE",
    "DataCard",
    "Position",
    "RunState",
    "Trained",
    "Unlogged",
    "check_data",
    "data_card",
    "differences",
    "trained_model",
]

STATE_FILE = "run.safetensors"
MODEL, MOMENTUM, AVERAGE = "model.", "momentum.", "average."


class Position(NamedTuple):
    """The next batch: `step` of `epoch`, both from 0, after `seconds` of training."""

    epoch: int = 0
    step: int = 0
    seconds: float = 0.0


class Unlogged(NamedTuple):
    """What the log's next row will tell of steps that are taken: their losses' sum and number, and `seconds` of
    training at the row before."""

    loss_sum: float = 0.0
    steps: int = 0
    seconds: float = 0.0


class DataCard(BaseModel):
    """What a model has to know of its training data once the data is gone."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    class_names: tuple[str, ...]
    preprocessing: Preprocessing
    train: int
    held_out: int
    test: int


@dataclass(frozen=True, slots=True, kw_only=True)
class RunState:
    """Everything a run needs to continue. `momentum` is by parameter name, empty before the first step; `average` is
    the state of the averaged model, empty where none is kept; `sha256` is of the file that it was read from."""

    config: TrainConfig
    data: DataCard
    position: Position
    model: HierarchicalEnsemble
    momentum: dict[str, Tensor]
    average: dict[str, Tensor] = field(default_factory=dict)
    unlogged: Unlogged = field(default_factory=Unlogged)
    sha256: str | None = None

    def result(self) -> HierarchicalEnsemble:
        """What the run is for: the averaged model if there is one, in evaluation mode."""
        if not self.average:
            return self.model
        model = deepcopy(self.model)
        model.load_state_dict(self.average)
        return model

    @property
    def steps_per_epoch(self) -> int:
        """Whole batches in the training images."""
        assert self.config.batch_size is not None
        return self.data.train // self.config.batch_size

    @property
    def epochs(self) -> float:
        """Epochs trained so far, fractional within an epoch."""
        return self.position.epoch + self.position.step / self.steps_per_epoch

    def save(self, folder: Path) -> None:
        """Write the state; a crash meanwhile leaves the previous one."""
        tensors = {MODEL + name: tensor for name, tensor in self.model.state_dict().items()}
        tensors |= {MOMENTUM + name: tensor for name, tensor in self.momentum.items()}
        tensors |= {AVERAGE + name: tensor for name, tensor in self.average.items()}
        metadata = {
            "spec": self.model.spec.model_dump_json(),
            "config": self.config.to_json(),
            "data": self.data.model_dump_json(),
            "epoch": str(self.position.epoch),
            "step": str(self.position.step),
            "seconds": str(self.position.seconds),
            "unlogged": json.dumps(self.unlogged),
        }
        write_tensors(folder / STATE_FILE, tensors, metadata)

    @classmethod
    def load(cls, folder: Path) -> RunState:
        """Read a state.

        Raises:
            CheckpointError: there is none, or it is corrupt or incomplete.
        """
        path = folder / STATE_FILE
        tensors, metadata, sha256 = _read(path)
        try:
            config = TrainConfig.from_json(metadata["config"])
            data = DataCard.model_validate_json(metadata["data"])
            position = Position(int(metadata["epoch"]), int(metadata["step"]), float(metadata["seconds"]))
            # Absent in states of versions that did not keep it: their next row is of the steps after resuming.
            stored = metadata.get("unlogged")
            unlogged = Unlogged(*json.loads(stored)) if stored else Unlogged(seconds=position.seconds)
        except KeyError as error:
            raise CheckpointError(path, f"is no training run: no {error} in its header") from error
        except (ConfigError, ValidationError, ValueError, TypeError) as error:
            raise CheckpointError(path, f"has a damaged header: {error}") from error
        return cls(
            config=config,
            data=data,
            position=position,
            model=model_from(path, _part(tensors, MODEL), metadata["spec"]),
            momentum=_part(tensors, MOMENTUM),
            average=_part(tensors, AVERAGE),
            unlogged=unlogged,
            sha256=sha256,
        )


def data_card(data: ImageDataset) -> DataCard:
    """What a run remembers of its data."""
    return DataCard(
        class_names=data.class_names,
        preprocessing=data.preprocessing,
        train=len(data.train),
        held_out=len(data.held_out),
        test=len(data.test),
    )


def check_data(data: ImageDataset, stored: DataCard, *, where: Path | str) -> None:
    """Make sure that the data is what a run was started with, or a record measured on; `where` that is kept.

    Raises:
        RunError: it is not.
    """
    if changed := differences(data_card(data), stored):
        raise RunError(
            f"{where}: --data holds other data than it was trained on: {changed}; "
            "set --data to the former, or choose another --out"
        )


def differences(now: BaseModel, then: BaseModel) -> str:
    """What is not as it was, in words; "" where everything is."""
    before = dict(then)
    return ", ".join(
        f"{name.replace('_', ' ')} {shorten(str(value), 200)} instead of {shorten(str(before[name]), 200)}"
        for name, value in now
        if value != before[name]
    )


class Trained(NamedTuple):
    """A model, in evaluation mode, and the data that it was trained on; `held_out` is the fraction of the training
    images that it has not seen, None where that is not known."""

    model: HierarchicalEnsemble
    class_names: tuple[str, ...]
    held_out: float | None


def trained_model(folder: Path) -> Trained:
    """What was trained: the result of a run, or the model of an exported package.

    Raises:
        CheckpointError: there is neither, or it is corrupt or incomplete.
        PackageError: the package is corrupt or incomplete.
    """
    if (folder / MANIFEST).is_file():
        package = Package.load(folder)
        held_out = package.manifest.training.get("held_out")
        model, _ = load_checkpoint(package.weights)
        return Trained(model, package.manifest.class_names, held_out if isinstance(held_out, float) else None)
    state = RunState.load(folder)
    return Trained(state.result(), state.data.class_names, state.config.held_out)


def _read(path: Path) -> tuple[dict[str, Tensor], dict[str, str], str]:
    """Tensors and metadata of a state, with the digest of that very file: a training may replace it at any moment."""
    while True:
        try:
            with path.open("rb") as file:
                sha256 = digest(path).sha256
                tensors, metadata = read_tensors(path)
                if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                    return tensors, metadata, sha256
        except FileNotFoundError as error:
            raise CheckpointError(path, "does not exist") from error
        except OSError as error:
            raise CheckpointError(path, f"cannot be read ({error.strerror})") from error


def _part(tensors: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
