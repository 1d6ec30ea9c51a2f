"""The plan of a run: when which image is sent and when its answer is due, drawn before anything is sent.

Arrivals are a renewal process whose rate may change over time. A rate is given by its knots, (seconds, requests/s), and
linear in between; two knots at the same time make a jump.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Knots", "Plan", "arrivals", "burst", "constant", "draw_plan", "ramp"]

Knots = Sequence[tuple[float, float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """Requests in the order in which they are to be sent."""

    arrivals: NDArray[np.float64]
    """(R,) seconds from the start, ascending: the intended send times."""
    deadlines: NDArray[np.float64]
    """(R,) seconds from the arrival to the instant at which the answer is due; infinity for none."""
    images: NDArray[np.int64]
    """(R,) which image is sent."""
    seconds: float
    """How long it lasts."""

    def __len__(self) -> int:
        return len(self.arrivals)


def constant(rate: float, seconds: float) -> Knots:
    """So many requests a second all the time."""
    return [(0.0, rate), (seconds, rate)]


def ramp(low: float, high: float, seconds: float) -> Knots:
    """From one rate to another, evenly."""
    return [(0.0, low), (seconds, high)]


def burst(low: float, high: float, *, start: float, stop: float, seconds: float) -> Knots:
    """One rate, another between `start` and `stop`, and the first again."""
    return [(0.0, low), (start, low), (start, high), (stop, high), (stop, low), (seconds, low)]


def arrivals(rate: Knots, random: np.random.Generator, *, cv2: float = 1.0) -> NDArray[np.float64]:
    """Instants (R,), ascending, from the first knot to the last.

    At a constant rate the gaps are gamma-distributed; `cv2`, their squared coefficient of variation, is 1 for a Poisson
    process.
    A changing rate stretches time: a process of rate 1 is mapped through the inverse of the rate's integral.
    """
    times, rates = np.array(rate, np.float64).T
    if np.any(np.diff(times) < 0) or np.any(rates < 0) or cv2 <= 0:
        raise ValueError(f"times must ascend, rates be at least 0 and cv2 above 0, got {list(rate)} and {cv2}")
    lengths = np.diff(times)
    expected = np.concatenate([[0.0], np.cumsum(lengths * (rates[1:] + rates[:-1]) / 2)])  # requests up to each knot
    units = _renewals(expected[-1], random, cv2)
    piece = np.searchsorted(expected, units, side="right") - 1
    beyond, first = units - expected[piece], rates[piece]
    slopes = np.divide(np.diff(rates), lengths, out=np.zeros_like(lengths), where=lengths > 0)[piece]
    # Solves first * t + slope * t^2 / 2 = beyond without cancellation.
    stretched = 2 * beyond / (first + np.sqrt(np.maximum(first**2 + 2 * slopes * beyond, 0)))
    instants: NDArray[np.float64] = times[piece] + stretched
    return instants


def draw_plan(
    rate: Knots,
    *,
    deadlines: Sequence[float],
    images: int,
    seed: Sequence[int] | int,
    cv2: float = 1.0,
) -> Plan:
    """Each request has one of `deadlines` (seconds) and one of so many images, drawn evenly."""
    random = np.random.default_rng(seed)
    instants = arrivals(rate, random, cv2=cv2)
    return Plan(
        arrivals=instants - rate[0][0],
        deadlines=random.choice(np.asarray(deadlines, np.float64), len(instants)),
        images=random.integers(images, size=len(instants)),
        seconds=rate[-1][0] - rate[0][0],
    )


def _renewals(end: float, random: np.random.Generator, cv2: float) -> NDArray[np.float64]:
    """The renewals below `end` of a process of rate 1."""
    gaps: list[NDArray[np.float64]] = []
    total = 0.0
    while total < end:
        gaps.append(random.gamma(1 / cv2, cv2, 1024))
        total += float(gaps[-1].sum())
    instants = np.cumsum(np.concatenate(gaps)) if gaps else np.empty(0)
    return instants[instants < end]
