"""The learning rate as a function of the position in the run, so that resuming needs no state for it."""

from __future__ import annotations

import math

__all__ = ["learning_rate"]


def learning_rate(epoch: float, *, peak: float, epochs: int, warmup_epochs: float = 0.0) -> float:
    """Linear warm-up, then half a cosine down to zero at the end (Loshchilov and Hutter 2017, no restarts).

    `epoch` is fractional: 1.5 is the middle of the second pass over the data.
    """
    if epoch < warmup_epochs:
        return peak * epoch / warmup_epochs
    progress = (epoch - warmup_epochs) / (epochs - warmup_epochs)
    return peak * (1 + math.cos(math.pi * progress)) / 2
