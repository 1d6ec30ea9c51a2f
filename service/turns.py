"""Turns: requests are taken up one in each turn of the event loop, so that answers do not wait behind all that came.

Whatever is ready runs before the next turn. When a burst has come, an answer that the engine has just given would have
to wait until every new image is decoded; so the new ones wait for each other instead.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left, insort
from collections.abc import Callable
from itertools import count
from math import inf
from operator import attrgetter
from typing import NamedTuple

from service.request import Priority
from service.window import Window

__all__ = ["Turns"]

QUANTILE = 0.9
WINDOW = 256
"""First leaves from which it follows how long one takes."""
LOOKED_AT = 64
"""Of those who wait, so many are looked at for whether they can be reached in time."""
SMOOTHING = 16
"""Turns over which it is averaged how far they lie apart."""


class _Waiting(NamedTuple):
    deadline: float
    number: int
    turn: asyncio.Future[None]


_deadline = attrgetter("deadline")


class _Line:
    """Those of one priority who wait."""

    def __init__(self) -> None:
        self._waiting: list[_Waiting] = []
        self._passed_over: list[_Waiting] = []

    def join(self, waiting: _Waiting) -> None:
        """One comes."""
        insort(self._waiting, waiting)

    def next(self, in_time: float, apart: float) -> asyncio.Future[None] | None:
        """The next of those with deadlines of at least `in_time`, if turns are so many seconds apart.

        The most urgent, unless then one would be reached too late. Then not all can make it: the last of these is next,
        who has most time of them, and who is more urgent is passed over. They come when nobody else does.
        """
        waiting = self._waiting
        while waiting and waiting[0].turn.done():  # it was given up, as most are when their time is over
            del waiting[0]
        first = bisect_left(waiting, in_time, key=_deadline)
        while first < len(waiting):
            index = self._last_too_late(first, in_time, apart)
            chosen = waiting.pop(index)
            if index > first:
                self._passed_over = sorted(
                    other for other in (*self._passed_over, *waiting[first:index]) if not other.turn.done()
                )
                del waiting[first:index]
            if not chosen.turn.done():
                return chosen.turn
        return _last(self._passed_over, in_time)

    def any(self) -> asyncio.Future[None] | None:
        """Whoever is left; those with most time come first."""
        return _last(self._waiting) or _last(self._passed_over)

    def _last_too_late(self, first: int, in_time: float, apart: float) -> int:
        """Whom of those from `first` on, taken by urgency, the turn would reach too late; `first` if nobody."""
        waiting = self._waiting
        stride = (len(waiting) - first) // LOOKED_AT + 1
        for index in range(len(waiting) - 1, first, -stride):
            if in_time + (index - first) * apart > waiting[index].deadline:
                return index
        return first


class Turns:
    """Lets through one a turn: of the highest priority, the most urgent of those who have as long as it usually takes
    to a first leaf, as `observe` hears it. Where there are too many for that, those with most time of the many come
    first, and so they do when nobody has as long: served by urgency, all would come just too late.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._lines = {priority: _Line() for priority in Priority}
        self._numbers = count()
        self._needed = Window(WINDOW, QUANTILE, empty=0.0)
        self._apart = 0.0
        """Seconds from one turn to the next while requests wait."""
        self._last_at = 0.0
        self._taken = False
        """Whether this turn has let one through."""

    def observe(self, seconds: float) -> None:
        """From its turn to its first leaf a request took so long."""
        self._needed.add(seconds)

    async def next(self, deadline: float, priority: Priority) -> None:
        """Wait for a turn of one's own."""
        loop = asyncio.get_running_loop()
        if self._taken:
            turn = loop.create_future()
            self._lines[priority].join(_Waiting(deadline, next(self._numbers), turn))
            await turn
        else:
            self._taken, self._last_at = True, self._clock()
            loop.call_soon(self._pass_on)

    def _pass_on(self) -> None:
        now = self._clock()
        if (turn := self._chosen(now + self._needed.value)) is None:
            self._taken = False
        else:
            self._apart += (now - self._last_at - self._apart) / SMOOTHING
            self._last_at = now
            turn.set_result(None)
            turn.get_loop().call_soon(self._pass_on)

    def _chosen(self, in_time: float) -> asyncio.Future[None] | None:
        for line in self._lines.values():
            if (turn := line.next(in_time, self._apart)) is not None:
                return turn
        for line in self._lines.values():
            if (turn := line.any()) is not None:
                return turn
        return None


def _last(waiting: list[_Waiting], at_least: float = -inf) -> asyncio.Future[None] | None:
    """Take out the one with most time, if its deadline is `at_least` that."""
    while waiting and waiting[-1].deadline >= at_least:
        if not (turn := waiting.pop().turn).done():
            return turn
    return None
