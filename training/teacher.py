"""A trained run as the teacher of another: its full ensemble's logits, mixed with y_E in the soft labels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from model_core.package import digest
from model_core.spec import ModelSpec
from training.config import TrainConfig
from training.errors import RunError
from training.run_state import STATE_FILE, RunState

__all__ = ["load_teacher", "with_teacher"]


def with_teacher(config: TrainConfig) -> TrainConfig:
    """Settings that remember their teacher's weights, not only where they lie.

    Raises:
        RunError: there is no trained run.
    """
    if config.teacher is None:
        return config
    return replace(config, teacher_sha256=_digest(config.teacher))


def load_teacher(config: TrainConfig, student: ModelSpec, device: torch.device) -> Callable[[Tensor], Tensor] | None:
    """A function from images (B, C, H, W) to the teacher's y_E (B, K) float32; None without a teacher.

    Raises:
        RunError: it is missing, was trained further since the student's run began, or does not fit the student.
    """
    if config.teacher is None:
        return None
    stored = RunState.load(config.teacher)
    if stored.sha256 != config.teacher_sha256:
        raise RunError(f"--teacher {config.teacher}: its weights are not those that the run was started with")
    teacher = stored.result().to(device).to(memory_format=torch.channels_last)
    spec = teacher.spec
    if (spec.classes, spec.input_shape) != (student.classes, student.input_shape):
        raise RunError(f"--teacher {config.teacher}: its images or classes are others than those of {student.name}")

    @torch.no_grad()
    def lesson(images: Tensor) -> Tensor:
        logits_lbk: Tensor = teacher(images)
        return logits_lbk.float().mean(0)

    return lesson


def _digest(folder: Path) -> str:
    try:
        return digest(folder / STATE_FILE).sha256
    except OSError as error:
        raise RunError(f"--teacher {folder}: no trained run there ({error.strerror})") from error
