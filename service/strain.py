"""Strain: how much load the front bears beside refinements.

The engine leaves whoever comes the time for a first leaf, but knows of nothing outside itself. Reading, decoding and
replying share the processor with refinements, and where they fall behind, a refinement that is worth a fraction of a
point of accuracy costs whole answers. So urgent requests are refined only at loads at which fewer are lost so than
refining gains. Which these are depends on the machine and on who else uses it, so it is learned from what is lost, as
TCP learns the rate of a path. A client that is alone, and asks again when it has its answer, is no load, however often
it asks: the sooner it is answered the more often.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import inf

from model_core.package import EnsembleFigures
from service.window import MOMENT, Rate

__all__ = ["URGENT_SECONDS", "Strain"]

URGENT_SECONDS = 1.0
"""Who has longer is not urgent: if there is no time to refine now, there will be."""
RECENT = 64
"""Requests over which the load is taken, and in a row that show that a client is alone."""
TRIAL = 64
"""Requests after one that is lost, which show whether that was chance and at which load it happens; the same again
confirm it, for a pause of the machine loses several at once."""
TRIAL_SECONDS = 2.5
"""A longer one is given up: at such a load it is not the load that lets them down."""
ENOUGH = 2
"""Fewer of them that are lost too are chance."""
LESS = 0.8
"""Bearable is so much of a load that was too high."""
GROWTH = 0.01
"""The share of it by which it grows per second: the fifth is made up for in twenty-five."""


class Strain:
    """The load of the front, and the highest at which it loses no more than refining gains; no limit until it is known.

    `table` tells what refining gains: from the first leaf's accuracy to the best of any ensemble size.
    """

    def __init__(self, table: Sequence[EnsembleFigures], clock: Callable[[], float]) -> None:
        first = table[0].accuracy
        self._gain = max(row.accuracy for row in table) / first - 1 if first else 1.0
        self._clock = clock
        self._ended = Rate(RECENT)
        self._bearable = inf
        """Requests per second, when it was last learned."""
        self._learned_at = 0.0
        self._refined_from = 0.0
        """The last instant at which the load was too high. Who came before says nothing about refining."""
        self._trial = 0
        """Requests that are left of a trial; 0 if there is none."""
        self._trial_began_at = 0.0
        self._lost = 0
        self._confirming = False
        self._last_end = 0.0
        self._alone = 0
        """How many requests in a row were seen after the one before had ended."""

    def ended(self, *, arrived_at: float, seen_at: float, let_down: bool) -> None:
        """A request is over that came at `arrived_at`, as far as can be known, and was seen at `seen_at`; `let_down` if
        the front did not get to it in time.
        """
        now = self._clock()
        self._ended.add(now)
        self._alone = self._alone + 1 if seen_at >= self._last_end else 0
        self._last_end = now
        if self.too_high:
            self._refined_from = now
        if now - self._trial_began_at > TRIAL_SECONDS or self.alone:
            self._trial = 0
        if self._trial:
            self._trial -= 1
            self._lost += let_down
            if not self._trial and self._lost >= ENOUGH and self._lost > self._gain * TRIAL:
                if self._confirming:
                    load = TRIAL / max(now - self._trial_began_at, MOMENT)
                    self._bearable, self._learned_at = min(LESS * load, self._limit(now)), now
                else:
                    self._try(now, confirming=True)
        elif let_down and arrived_at > self._refined_from and not self.alone:
            self._try(now, confirming=False)

    @property
    def too_high(self) -> bool:
        """Whether the load is higher than what is bearable beside refinements."""
        now = self._clock()
        return not self.alone and self._ended.at(now) > self._limit(now)

    @property
    def bearable(self) -> float:
        """The highest load, in requests per second, that is taken to be bearable beside refinements; inf: any."""
        return self._limit(self._clock())

    @property
    def alone(self) -> bool:
        """Whether the requests of the last while came from a client that is alone, one after the other."""
        return self._alone >= RECENT

    def _try(self, now: float, *, confirming: bool) -> None:
        self._trial, self._trial_began_at, self._lost, self._confirming = TRIAL, now, 0, confirming

    def _limit(self, now: float) -> float:
        return self._bearable * (1 + GROWTH * (now - self._learned_at))
