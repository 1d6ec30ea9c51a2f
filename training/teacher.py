"""A trained run as the teacher of another: its full ensemble's logits, mixed with y_E in the soft labels."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import torch

from model_core.errors import CheckpointError
from model_core.grouped import HierarchicalEnsemble
from model_core.package import Preprocessing, digest
from model_core.spec import ModelSpec
from training.config import TrainConfig
from training.errors import RunError
from training.initial import seen
from training.run_state import STATE_FILE, DataCard, RunState

__all__ = ["load_teacher", "with_teacher"]

TOLERANCE = 0.02
"""Of a channel's mean and deviation, for values in 0..1."""


def with_teacher(config: TrainConfig) -> TrainConfig:
    """Settings that remember their teacher's weights, not only where they lie.

    Raises:
        RunError: there is no trained run.
    """
    if config.teacher is None:
        return config
    return replace(config, teacher_sha256=_digest(config.teacher))


def load_teacher(
    config: TrainConfig, student: ModelSpec, data: DataCard, device: torch.device
) -> HierarchicalEnsemble | None:
    """The teacher, whose full ensemble's mean logits are the lesson, frozen; None without one.

    Raises:
        RunError: it is missing, was trained further since the student's run began, or does not fit the student.
    """
    if config.teacher is None:
        return None
    try:
        stored = RunState.load(config.teacher)
    except CheckpointError as error:
        raise RunError(f"--teacher {config.teacher}: {error}") from error
    if stored.sha256 != config.teacher_sha256:
        raise RunError(f"--teacher {config.teacher}: its weights are not those that the run was started with")
    teacher = stored.result().to(device).to(memory_format=torch.channels_last)
    fits = stored.data.class_names == data.class_names and teacher.spec.input_shape == student.input_shape
    if not fits or not _alike(stored.data.preprocessing, data.preprocessing):
        raise RunError(
            f"--teacher {config.teacher}: its classes or its images' size or colours are not those of this run"
        )
    assert config.held_out is not None
    for remark in seen(stored.config.held_out, config.held_out):
        print(f"hne-train: --teacher {config.teacher}: {remark}", file=sys.stderr)
    return teacher.eval().requires_grad_(False)


def _alike(one: Preprocessing, other: Preprocessing) -> bool:
    """Whether two networks can see the same pixels; statistics of other training images differ a little."""
    pairs = zip((*one.mean, *one.std), (*other.mean, *other.std), strict=True)
    return one.resize_to_cover == other.resize_to_cover and all(abs(a - b) < TOLERANCE for a, b in pairs)


def _digest(folder: Path) -> str:
    try:
        return digest(folder / STATE_FILE).sha256
    except OSError as error:
        raise RunError(f"--teacher {folder}: no trained run there ({error.strerror})") from error
