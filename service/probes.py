"""Probes: what keeps a refusal from lasting forever.

The profile learns from the steps that run, and decides which steps may run. A few stalls can therefore lock a step
out: if no deadline allows for what the profile remembers, the step never runs, and nothing ever shows that it has
become quick again. So refusals are noted here, and a step that is refused again without having run in between is due
for a probe: when the engine has nothing else to do it runs the step once, for nobody, to see what it takes now.

A probe costs an idle engine one step at batch 1, no more than serving the refused request would have. It moves the
profile as any step does, so a machine that has recovered serves again after a bounded number of refusals. Requests that
merely run out of time hardly cause any: steps like it ran before.
"""

from __future__ import annotations

import logging
from collections.abc import Callable

import numpy as np

from model_core.tree import Segment, Tree
from service.runners.base import Runner

__all__ = ["Probes"]

logger = logging.getLogger(__name__)


class Probes:
    """Which steps are due for a probe. As in the profile, steps that start at the same block count as one.

    No locks: all but `measure` are called under the engine's.
    """

    def __init__(self, runner: Runner, tree: Tree, input_shape: tuple[int, ...], clock: Callable[[], float]) -> None:
        self._runner, self._clock = runner, clock
        self._blocks = [tree.entry_block(leaf) for leaf in range(tree.leaves)]
        self._input_shape = input_shape
        self._refused: set[int] = set()
        """Entry blocks of the steps that were refused since one like them ran."""
        self._due: dict[int, Segment] = {}  # by entry block, in the order of refusal: each has its turn

    def __bool__(self) -> bool:
        return bool(self._due)

    def refused(self, segment: Segment) -> None:
        """Some request was not given this segment, because by the profile it would have ended too late."""
        block = self._blocks[segment.start]
        if block in self._refused:
            self._due[block] = segment
        self._refused.add(block)

    def ran(self, segment: Segment) -> None:
        """The segment ran for somebody: the profile knows."""
        block = self._blocks[segment.start]
        self._refused.discard(block)
        self._due.pop(block, None)

    def next(self) -> Segment | None:
        """The segment to measure now, due no longer; None if there is none."""
        return self._due.pop(next(iter(self._due))) if self._due else None

    def measure(self, segment: Segment) -> float | None:
        """Seconds that the segment takes for one request now; None if it fails. Nobody may hold a slot."""
        images = None if segment.start else np.zeros((1, *self._input_shape), np.float32)
        before = self._clock()
        try:
            self._runner.run(segment, slice(0, 1), images)
        except Exception:  # no request waits for it, and a fault says nothing of the time
            logger.exception("step %d failed while it was probed", segment.start)
            return None
        return self._clock() - before
