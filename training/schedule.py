"""The learning rate as a function of the position in the run, so that resuming needs no state for it."""

from __future__ import annotations

import math

__all__ = ["learning_rate"]


def learning_rate(
    epoch: float, *, peak: float, epochs: int, warmup_epochs: float = 0.0, swa: float = 0.0, swa_lr: float = 0.0
) -> float:
    """Linear warm-up, then half a cosine down to zero at the end (Loshchilov and Hutter 2017, no restarts); with a last
    share `swa` of the training at `swa_lr`, down to that rate where this share begins.

    `epoch` is fractional: 1.5 is the middle of the second pass over the data.
    """
    falling, end = (1 - swa) * epochs, swa_lr if swa else 0.0
    if epoch < warmup_epochs:
        return (peak if warmup_epochs < falling else end) * epoch / warmup_epochs
    if swa and epoch >= falling:
        return end
    progress = (epoch - warmup_epochs) / (falling - warmup_epochs)
    return end + (peak - end) * (1 + math.cos(math.pi * progress)) / 2
