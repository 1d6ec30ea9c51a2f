"""Runs of the tiny model: started, stopped at will, compared."""

from __future__ import annotations

import csv
from collections.abc import Callable
from itertools import count
from pathlib import Path

import torch

from training.config import TrainConfig
from training.data import ImageDataset
from training.progress import LOG_FILE
from training.run_state import RunState
from training.trainer import RunOptions, Trainer

__all__ = ["CPU", "EPOCHS", "STEPS", "after", "assert_same_state", "read_log", "settings", "trainer"]

CPU = torch.device("cpu")
EPOCHS, STEPS = 2, 5
"""54 training images make 5 batches of 10."""


def settings(folder: Path, **changes: object) -> TrainConfig:
    values = {"dataset": "folder", "data": folder, "epochs": EPOCHS, "batch_size": 10, "device": "cpu", "seed": 3}
    return TrainConfig(**{**values, **changes}).resolved()  # type: ignore[arg-type]


def trainer(state: RunState, data: ImageDataset, out: Path, **options: object) -> Trainer:
    ticks = count()
    values = {"out": out, "clock": lambda: float(next(ticks))}
    return Trainer(state, data, RunOptions(**{**values, **options}), CPU)  # type: ignore[arg-type]


def after(steps: int) -> Callable[[], bool]:
    """A stop request that comes after some steps."""
    asked = count(1)
    return lambda: next(asked) >= steps


def read_log(out: Path) -> list[dict[str, str]]:
    with (out / LOG_FILE).open(newline="") as file:
        return list(csv.DictReader(file))


def assert_same_state(one: Path, other: Path) -> None:
    first, second = RunState.load(one), RunState.load(other)
    assert first.position[:2] == second.position[:2]
    for name, tensor in first.model.state_dict().items():
        assert tensor.equal(second.model.state_dict()[name]), name
    assert first.average.keys() == second.average.keys()
    for name, tensor in first.average.items():
        assert tensor.equal(second.average[name]), name
    assert first.momentum.keys() == second.momentum.keys()
    for name, tensor in first.momentum.items():
        assert tensor.equal(second.momentum[name]), name
