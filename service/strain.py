"""Strain: how much load the front bears beside refinements.

The engine leaves whoever comes the time for a first leaf, but knows of nothing outside itself. Reading, decoding and
replying share the processor with refinements, and where they fall behind, a refinement that is worth a fraction of a
point of accuracy costs whole answers. So urgent requests are refined only at loads at which fewer are lost so than
refining gains. Which these are depends on the machine and on who else uses it, so it is learned from what is lost, as
TCP learns the rate of a path.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from math import inf

from model_core.package import EnsembleFigures

__all__ = ["SECONDS", "Strain"]

SECONDS = 1.0
"""Over how long it is counted what is lost."""
ENOUGH = 2
"""Fewer that are lost in this time may be chance."""
RECENT = 64
"""Requests over which the load is taken."""
MOMENT = 1e-3
"""Seconds at least in which these ended, so that there is a load."""
LESS = 0.8
"""Bearable is so much of a load that was too high."""
GROWTH = 0.02
"""The share of it by which it grows per second: the fifth is made up for in twelve and a half."""


class Strain:
    """The load of the front, and the highest at which it loses no more than refining gains; no limit until it is known.

    `table` tells what refining gains: from the first leaf's accuracy to the best of any ensemble size.
    """

    def __init__(self, table: Sequence[EnsembleFigures], clock: Callable[[], float]) -> None:
        first = table[0].accuracy
        self._gain = max(row.accuracy for row in table) / first - 1 if first else 1.0
        self._clock = clock
        self._recent: deque[float] = deque(maxlen=RECENT)
        self._ended: deque[float] = deque()
        self._let_down: deque[float] = deque()
        self._bearable = inf
        """Requests per second, when it was last learned."""
        self._learned_at = 0.0

    def ended(self, *, let_down: bool) -> None:
        """A request is over; `let_down` if the front did not get to it in time."""
        now = self._clock()
        self._recent.append(now)
        self._ended.append(now)
        if let_down:
            self._let_down.append(now)
        for instants in (self._ended, self._let_down):
            while instants and instants[0] <= now - SECONDS:
                instants.popleft()
        # What is lost at a load at which nobody is refined says nothing about refining.
        if let_down and self._loses and not self.too_high and (load := self._load(now)):
            self._bearable, self._learned_at = LESS * load, now
            self._let_down.clear()

    @property
    def too_high(self) -> bool:
        """Whether the load is higher than what is bearable beside refinements."""
        if self._bearable == inf:
            return False
        now = self._clock()
        return self._load(now) > self._bearable * (1 + GROWTH * (now - self._learned_at))

    @property
    def _loses(self) -> bool:
        """Whether more is lost than refining gains."""
        return len(self._let_down) >= ENOUGH and len(self._let_down) > self._gain * len(self._ended)

    def _load(self, now: float) -> float:
        """Requests per second; 0 until there have been enough."""
        return RECENT / max(now - self._recent[0], MOMENT) if len(self._recent) == RECENT else 0.0
