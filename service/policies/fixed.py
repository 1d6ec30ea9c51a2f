"""Baselines that give every answer the same ensemble size: one fixed for good, and one planned every 10 seconds."""

from __future__ import annotations

from model_core.tree import Segment
from service.policies.whole import begin, efficient_batch, resume, seconds_to
from service.scheduler import Decision, Situation, batch_sizes

__all__ = ["FixedSize", "Replan"]

PERIOD = 10.0
"""Seconds between two plans."""


class FixedSize:
    """Every answer has `size` leaves: earliest deadline first, and what cannot make it is not started.

    `margin` times its expected seconds must fit before the deadline.
    """

    def __init__(self, size: int, *, margin: float = 1.0) -> None:
        self.size, self.margin = size, margin

    def __call__(self, situation: Situation) -> Decision | None:
        if (started := resume(situation)) or not (situation.queues[0] and situation.free_slots):
            return started
        entries = efficient_batch(situation, self.size, self.margin)
        return begin(situation, entries, self.size) if entries else None


class Replan:
    """Accuracy scaled to the load by a controller, after Proteus (Ahmad et al., ASPLOS 2024).

    Every `PERIOD` seconds it takes the largest ensemble size that can carry the load of the last period, `margin` times
    over, in batches that take at most half the slack of the least urgent who waits; until the next plan it is
    `FixedSize` of that. It starts with one leaf. It remembers its plan, so each engine needs its own.
    """

    def __init__(self, leaves: int, *, margin: float = 1.0) -> None:
        self.margin = margin
        self._leaves = leaves
        self._plan = FixedSize(1, margin=margin)
        self._planned_at: float | None = None
        self._admitted = 0

    def __call__(self, situation: Situation) -> Decision | None:
        if self._planned_at is None:
            self._planned_at, self._admitted = situation.now, situation.admitted
        elapsed = situation.now - self._planned_at
        if elapsed >= PERIOD and situation.queues[0]:
            rate = (situation.admitted - self._admitted) / elapsed
            self._plan = FixedSize(self._largest_size_for(situation, rate), margin=self.margin)
            self._planned_at, self._admitted = situation.now, situation.admitted
        return self._plan(situation)

    def _largest_size_for(self, situation: Situation, rate: float) -> int:
        half = (situation.queues[0][-1].deadline - situation.now) / 2

        seconds = {batch: seconds_to(situation, self._leaves, batch) for batch in batch_sizes(situation.max_batch)}

        def capacity(size: int) -> float:
            return max(batch / taken[size] for batch, taken in seconds.items() if batch == 1 or taken[size] <= half)

        sizes = range(self._leaves, 1, -1)
        return next((size for size in sizes if capacity(size) >= self.margin * rate), Segment(0).stop)
