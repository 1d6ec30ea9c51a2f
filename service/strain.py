"""Strain: how many requests the front itself lets down, because it does not get to them in time.

The engine leaves whoever comes the time for a first leaf, but knows of nothing outside itself. Reading, decoding and
replying share the processor with refinements, and where they fall behind, a refinement that is worth a fraction of a
point of accuracy costs whole answers. So urgent requests are refined only while fewer are lost so than refining gains.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

from model_core.package import EnsembleFigures

__all__ = ["SECONDS", "Strain"]

SECONDS = 1.0
"""Over how long it is counted: so soon after a burst there are refinements again."""


class Strain:
    """The requests that ended lately, and those of them that the front let down.

    `table` tells what refining gains: from the first leaf's accuracy to the best of any ensemble size.
    """

    def __init__(self, table: Sequence[EnsembleFigures], clock: Callable[[], float]) -> None:
        first = table[0].accuracy
        self._gain = max(row.accuracy for row in table) / first - 1 if first else 1.0
        self._clock = clock
        self._ended: deque[float] = deque()
        self._let_down: deque[float] = deque()

    def ended(self, *, let_down: bool) -> None:
        """A request is over."""
        now = self._clock()
        self._ended.append(now)
        if let_down:
            self._let_down.append(now)
        self._forget(now)

    @property
    def too_high(self) -> bool:
        """Whether more is lost than refining gains."""
        if not self._let_down:
            return False
        self._forget(self._clock())
        return len(self._let_down) > self._gain * len(self._ended)

    def _forget(self, now: float) -> None:
        for instants in (self._ended, self._let_down):
            while instants and instants[0] <= now - SECONDS:
                instants.popleft()
