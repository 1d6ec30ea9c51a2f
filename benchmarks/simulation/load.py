"""Simulated load: when requests arrive and when their answers are due."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Load", "gamma_load"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """Requests in the order of their arrival."""

    arrivals: NDArray[np.float64]
    """(R,) seconds, ascending."""
    deadlines: NDArray[np.float64]
    """(R,) the instants by which the answers are due."""


def gamma_load(
    *, rate: float, count: int, slacks: Sequence[float], cv2: float = 1.0, random: np.random.Generator
) -> Load:
    """Open-loop arrivals with gamma-distributed gaps of mean 1 / rate and squared coefficient of variation `cv2`
    (1: Poisson). Each deadline is its arrival plus one of `slacks` (seconds), drawn evenly.
    """
    arrivals = np.cumsum(random.gamma(1 / cv2, cv2 / rate, count))
    return Load(arrivals=arrivals, deadlines=arrivals + random.choice(np.asarray(slacks), count))
