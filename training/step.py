"""How a training step's loss is computed: the forward pass and the objective as one function, compiled or not."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from model_core.group_major import GroupMajor
from model_core.grouped import HierarchicalEnsemble
from training.config import TrainConfig
from training.losses import objective, prefix_sizes

__all__ = ["Computation", "StepLoss"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Computation:
    """One way of computing the same loss, up to rounding."""

    compiled: bool = False
    group_major: bool = False
    """The layout of `model_core.group_major`."""
    graphs: bool = False
    """The compiled kernels in CUDA graphs: one launch forwards and one backwards."""

    @classmethod
    def chosen(cls, config: TrainConfig, model: HierarchicalEnsemble, device: torch.device) -> Computation:
        """Unless the user decides: eager on a CPU, compiled on a GPU, and there group-major in graphs, the fastest for
        the paper's networks (ledger, 2d), where all of the model's layers have that form."""
        on_gpu = device.type == "cuda"
        compiled = config.compile == "on" or (config.compile == "auto" and on_gpu)
        group_major = compiled and on_gpu and GroupMajor.supports(model)
        return cls(compiled=compiled, group_major=group_major, graphs=group_major)


class StepLoss:
    """The objective of a batch under a configuration.

    Args:
        teacher: a frozen model beside y_E, whose full ensemble's mean logits are the lesson.
    """

    def __init__(
        self,
        model: HierarchicalEnsemble,
        config: TrainConfig,
        device: torch.device,
        computation: Computation,
        teacher: HierarchicalEnsemble | None = None,
    ) -> None:
        self._group_major = GroupMajor(model) if computation.group_major else None
        forward: Callable[[Tensor], Tensor] = self._group_major or model
        sizes = prefix_sizes(model.tree.leaves, config.prefixes)
        taught_alike = teacher is None or GroupMajor.supports(teacher)
        teach: Callable[[Tensor], Tensor] | None = teacher
        if teacher is not None and computation.group_major and taught_alike:
            teach = GroupMajor(teacher)

        def loss(images: Tensor, targets: Tensor) -> Tensor:
            lesson = None
            with torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bf16"):
                logits_lbk = forward(images)
                if teach is not None:
                    with torch.no_grad():
                        lesson = teach(images).float().mean(0)
            return objective(
                config.loss,
                logits_lbk.float(),
                targets,
                sizes=sizes,
                alpha=config.alpha,
                temperature=config.temperature,
                student_temperature=config.student_temperature,
                label_smoothing=config.label_smoothing,
                teacher_bk=lesson,
                teacher_weight=config.teacher_weight,
            )

        self._loss: Any = loss
        if computation.compiled:
            # What earlier runs of this process compiled counts against a limit, past which nothing is compiled.
            torch.compiler.reset()
            mode = "reduce-overhead" if computation.graphs else "default"
            whole = computation.group_major and taught_alike
            self._loss = torch.compile(loss, mode=mode, dynamic=False, fullgraph=whole)

    def __call__(self, images: Tensor, targets: Tensor) -> Tensor:
        """The loss (a scalar, to be differentiated) of images (B, C, H, W) under labels (B,) or probabilities (B, K).

        With graphs it and its gradients are valid until the next call, which writes to the same memory.
        """
        if self._group_major is not None:
            self._group_major.count_batch()
        result: Tensor = self._loss(images, targets)
        return result
