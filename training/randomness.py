"""Random numbers that depend on the seed and the position in the run only.

Every order, crop and flip is drawn from a generator seeded with (seed, what for, epoch, step). So there is no
generator state to save: a resumed run draws exactly what the uninterrupted one would have drawn.
"""

from __future__ import annotations

import numpy as np
import torch

__all__ = ["AUGMENTATION", "MIXING", "MODEL", "ORDER", "generator", "mixed_seed"]

ORDER, AUGMENTATION, MODEL, MIXING = range(4)
"""What a stream of random numbers is for."""


def mixed_seed(*parts: int) -> int:
    """One 63-bit seed of several non-negative numbers; similar inputs give unrelated seeds.

    Zeros at the end change nothing. So the held-out images and the order of epoch 0 share a stream where the seed is 0,
    and the initial weights share one with the dropout of step 0. Numbers drawn for shuffling and for weights have
    nothing to do with each other all the same, and it stays so that runs can be continued and found again.
    """
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> 1)


def generator(*parts: int, device: torch.device | None = None) -> torch.Generator:
    """A generator for one purpose at one position."""
    return torch.Generator(device or torch.device("cpu")).manual_seed(mixed_seed(*parts))
