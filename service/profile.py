"""The profile: how many seconds a segment takes for a batch, measured at start-up and kept current while serving.

Segments that compute the same blocks with the same width cost the same, so they share one curve over the batch size:
linear between the measured sizes, proportional beyond the largest. Each serving step moves the curve a little
towards what it took; how far steps strayed from the curve, in a bounded window, gives the high quantile.
"""

from __future__ import annotations

import logging
from bisect import bisect_left, bisect_right, insort
from collections import defaultdict, deque
from collections.abc import Callable, Mapping, Sequence
from statistics import median
from typing import NamedTuple

import numpy as np

from model_core.tree import Segment, Tree
from service.runners.base import Runner
from service.state import StepProfile

__all__ = ["Profile", "Shape", "measure_profile"]

logger = logging.getLogger(__name__)

QUANTILE = 0.95
WINDOW = 256
"""Steps that the quantile looks back on, per curve."""
STRAGGLE_QUANTILE = 0.98
STRAGGLE_WINDOW = 1024
"""Steps of all curves together that the straggler factor looks back on."""
RATE = 0.05
"""How much of its deviation one step moves a curve."""
MAX_DEVIATION = 0.5
"""Deviations count at most so much for the curve: a straggler belongs into the quantile."""
REPEATS = 5


class Shape(NamedTuple):
    """What determines a segment's cost: its first block and its width."""

    entry_block: int
    width: int


class Profile:
    """Seconds per segment and batch size.

    `timings[shape][batch]` are the measured seconds; batch 1 must be among them for every shape.
    """

    def __init__(self, tree: Tree, timings: Mapping[Shape, Mapping[int, Sequence[float]]], *, max_batch: int) -> None:
        curves = {shape: _Curve(measured, max_batch) for shape, measured in timings.items()}
        self._curves = {
            segment: curves[shape] for segment in tree.segments() if (shape := _shape(tree, segment)) in curves
        }
        self._strays = _Window(STRAGGLE_WINDOW, STRAGGLE_QUANTILE)

    @property
    def straggle(self) -> float:
        """How many times its expected seconds a step rarely exceeds (the 98th percentile of all recent steps)."""
        return max(1.0, self._strays.value)

    def expected(self, segment: Segment, batch: int) -> float:
        """Seconds that a segment usually takes for a batch of 1..max_batch."""
        return self._curves[segment].seconds[batch]

    def quantile(self, segment: Segment, batch: int) -> float:
        """Seconds that a segment rarely exceeds (the 95th percentile of its recent steps)."""
        curve = self._curves[segment]
        return curve.seconds[batch] * curve.strays.value

    def observe(self, segment: Segment, batch: int, seconds: float) -> None:
        """A step of the engine took so long."""
        curve = self._curves[segment]
        self._strays.add(seconds / curve.seconds[batch])
        curve.observe(batch, seconds)

    def describe(self, segment: Segment) -> StepProfile:
        """What is known of a segment, at the batch sizes that were measured."""
        batches = self._curves[segment].batches
        return StepProfile(
            ensemble_size=segment.stop,
            expected={batch: self.expected(segment, batch) for batch in batches},
            quantile={batch: self.quantile(segment, batch) for batch in batches},
        )


class _Curve:
    """Seconds over the batch size for all segments of one shape."""

    def __init__(self, measured: Mapping[int, Sequence[float]], max_batch: int) -> None:
        self.batches = tuple(sorted(measured))
        assert self.batches[0] == 1
        self._knots = [median(measured[batch]) for batch in self.batches]
        self._range = np.arange(max_batch + 1)
        self.strays = _Window(WINDOW, QUANTILE)
        self._interpolate()
        for batch, timings in measured.items():
            for seconds in timings:
                self.strays.add(seconds / self.seconds[batch])

    def observe(self, batch: int, seconds: float) -> None:
        ratio = seconds / self.seconds[batch]
        self.strays.add(ratio)
        change = RATE * min(max(ratio - 1, -MAX_DEVIATION), MAX_DEVIATION)
        above = min(bisect_left(self.batches, batch), len(self.batches) - 1)
        below = max(bisect_right(self.batches, batch) - 1, 0)
        for knot in {above, below}:
            self._knots[knot] *= 1 + change
        self._interpolate()

    def _interpolate(self) -> None:
        seconds = np.interp(self._range, self.batches, self._knots)
        beyond = self._range > self.batches[-1]
        seconds[beyond] = self._range[beyond] * (self._knots[-1] / self.batches[-1])
        self.seconds: list[float] = seconds.tolist()


class _Window:
    """A quantile of the last so many values; 1 before there is any."""

    def __init__(self, length: int, quantile: float) -> None:
        self._length, self._quantile = length, quantile
        self._recent: deque[float] = deque()
        self._ranked: list[float] = []
        self.value = 1.0

    def add(self, value: float) -> None:
        self._recent.append(value)
        insort(self._ranked, value)
        if len(self._recent) > self._length:
            del self._ranked[bisect_left(self._ranked, self._recent.popleft())]
        self.value = self._ranked[int(self._quantile * (len(self._ranked) - 1) + 0.5)]


def measure_profile(
    runner: Runner,
    tree: Tree,
    input_shape: tuple[int, ...],
    *,
    max_batch: int,
    clock: Callable[[], float],
    seconds: float,
) -> Profile:
    """Time every segment of a runner at batch sizes 1, 2, 4, ..., max_batch.

    Larger batches are left out, and repeats cut short, once about `seconds` have passed; batch 1 is always measured.
    """
    started = clock()
    random = np.random.default_rng(0)
    timings: dict[Shape, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))

    def time_all(batch: int) -> float:
        began = clock()
        for segment in runner.segments:
            entry = tree.entry_block(segment.start)
            x = random.standard_normal((batch, *(runner.shapes[entry - 1] if entry else input_shape)), np.float32)
            before = clock()
            runner.run(segment, x)
            timings[_shape(tree, segment)][batch].append(clock() - before)
        return clock() - began

    measured: list[int] = []
    for batch in [1 << power for power in range(max_batch.bit_length()) if 1 << power < max_batch] + [max_batch]:
        time_all(batch)  # the first run of a size allocates
        for shape in timings.values():
            shape[batch].clear()
        last = time_all(batch)
        measured.append(batch)
        logger.info("profile: all %d segments at batch %d take %.1f ms", len(runner.segments), batch, 1e3 * last)
        if clock() - started + 4 * last > seconds:
            break
    for _ in range(REPEATS - 1):
        for batch in measured:
            if clock() - started < seconds:
                time_all(batch)
    return Profile(tree, timings, max_batch=max_batch)


def _shape(tree: Tree, segment: Segment) -> Shape:
    return Shape(tree.entry_block(segment.start), segment.width)
