"""Random numbers that depend on the seed and the position in the run only.

Every order, crop and flip is drawn from a generator seeded with (seed, what for, epoch, step). So there is no
generator state to save: a resumed run draws exactly what the uninterrupted one would have drawn.
"""

from __future__ import annotations

import numpy as np
import torch

__all__ = ["AUGMENTATION", "MIXING", "MODEL", "ORDER", "generator", "mixed_seed"]

ORDER, AUGMENTATION, MODEL, MIXING = range(4)
"""What a stream of random numbers is for; different purposes get independent streams."""


def mixed_seed(*parts: int) -> int:
    """One 63-bit seed of several non-negative numbers; similar inputs give unrelated seeds."""
    return int(np.random.SeedSequence(parts).generate_state(1, np.uint64)[0] >> 1)


def generator(*parts: int, device: torch.device | None = None) -> torch.Generator:
    """A generator for one purpose at one position."""
    return torch.Generator(device or torch.device("cpu")).manual_seed(mixed_seed(*parts))
