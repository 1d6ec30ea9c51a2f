"""The profile: how many seconds a segment takes for a batch, measured at start-up (`service.timings`) and kept current
while serving.

Segments that compute the same blocks with the same width cost the same, so they share one curve over the batch size:
linear between the measured sizes, proportional beyond the largest; in steps where the runner pads batches. Each
serving step moves the curve a little towards what it took; how far steps strayed from the curve, in a bounded window,
gives the high quantile.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from statistics import median
from typing import NamedTuple

from model_core.tree import Segment, Tree
from service.runners.base import padded
from service.state import StepProfile
from service.window import Each, Window

__all__ = ["Profile", "Shape", "Timings", "shape_of"]

QUANTILE = 0.95
WINDOW = 256
"""Steps that the quantile looks back on, per curve."""
STRAGGLE_QUANTILE = 0.98
STRAGGLE_WINDOW = 1024
"""Steps of all curves together that the straggler factor looks back on."""
COST_WINDOW = 64
"""Steps over which it is taken what a leaf costs."""
RATE = 0.05
"""How much of its deviation one step moves a curve."""
MAX_DEVIATION = 0.5
"""Deviations count at most so much for the curve: a straggler belongs into the quantile."""


class Shape(NamedTuple):
    """What determines a segment's cost: its first block and its width."""

    entry_block: int
    width: int


Timings = Mapping[Shape, Mapping[int, Sequence[float]]]
"""Measured seconds by shape and batch size; batch 1 is among them for every shape."""


class Profile:
    """Seconds per segment and batch size; `pads` as the runner's."""

    def __init__(self, tree: Tree, timings: Timings, *, max_batch: int, pads: bool = False) -> None:
        curves = {shape: _Curve(measured, max_batch, pads=pads) for shape, measured in timings.items()}
        self._curves = {
            segment: curves[shape] for segment in tree.segments() if (shape := shape_of(tree, segment)) in curves
        }
        self._strays = Window(STRAGGLE_WINDOW, STRAGGLE_QUANTILE)
        self._first, self._further = Each(COST_WINDOW), Each(COST_WINDOW)

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

    def cheapest(self, segment: Segment) -> float:
        """Seconds per request at the batch size that is most efficient."""
        return self._curves[segment].cheapest

    @property
    def first_leaf(self) -> float:
        """Seconds per request that the first leaf has lately cost on average; as `cheapest` before any step."""
        return self._first.value or self.cheapest(Segment(0))

    @property
    def further_leaf(self) -> float:
        """Seconds per request that a leaf after the first has lately cost on average; as `cheapest` before any step."""
        return self._further.value or self.cheapest(Segment(1))

    def observe(self, segment: Segment, batch: int, seconds: float) -> None:
        """A step of the engine took so long."""
        if segment.start:
            self._further.add(seconds, batch * segment.width)
        elif segment.width == 1:
            self._first.add(seconds, batch)
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

    def __init__(self, measured: Mapping[int, Sequence[float]], max_batch: int, *, pads: bool) -> None:
        self._pads = pads
        self.batches = tuple(sorted(measured))
        assert self.batches[0] == 1
        self._knots = [median(measured[batch]) for batch in self.batches]
        self.seconds = [0.0] * (max_batch + 1)
        self.strays = Window(WINDOW, QUANTILE)
        self._interpolate(0, len(self._knots) - 1)
        for batch, timings in measured.items():
            for seconds in timings:
                self.strays.add(seconds / self.seconds[batch])

    def observe(self, batch: int, seconds: float) -> None:
        ratio = seconds / self.seconds[batch]
        self.strays.add(ratio)
        change = RATE * min(max(ratio - 1, -MAX_DEVIATION), MAX_DEVIATION)
        above = min(bisect_left(self.batches, batch), len(self.batches) - 1)
        below = above if self._pads else max(bisect_right(self.batches, batch) - 1, 0)
        for knot in {above, below}:
            self._knots[knot] *= 1 + change
        self._interpolate(max(below - 1, 0), min(above + 1, len(self._knots) - 1))

    def _interpolate(self, first: int, last: int) -> None:
        """Bring the seconds between two knots up to date, and what lies beyond the last knot of all."""
        for knot in range(first, last):
            low, high = self.batches[knot], self.batches[knot + 1]
            self.seconds[low:high] = self._between(self._knots[knot], self._knots[knot + 1], high - low)
        if last == len(self._knots) - 1:
            end, seconds = self.batches[last], self._knots[last]
            further = range(end + 1, len(self.seconds))
            computed = map(padded, further) if self._pads else further
            self.seconds[end:] = [seconds, *(seconds / end * batch for batch in computed)]
        self.cheapest = min(knot / batch for knot, batch in zip(self._knots, self.batches, strict=True))
        """Seconds per request at the batch size that is most efficient."""

    def _between(self, low: float, high: float, batches: int) -> list[float]:
        """The seconds of so many batches from a knot on, up to the next one."""
        if self._pads:
            return [low, *[high] * (batches - 1)]
        slope = (high - low) / batches
        return [low + slope * offset for offset in range(batches)]


def shape_of(tree: Tree, segment: Segment) -> Shape:
    """The curve that a segment is on."""
    return Shape(tree.entry_block(segment.start), segment.width)
