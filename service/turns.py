"""Turns: requests are taken up one in each turn of the event loop, so that answers do not wait behind all that came.

Whatever is ready runs before the next turn. When a burst has come, an answer that the engine has just given would have
to wait until every new image is decoded; so the new ones wait for each other instead.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left, insort
from collections.abc import Callable
from itertools import count
from operator import attrgetter
from typing import NamedTuple

from service.request import Priority
from service.window import Window

__all__ = ["Turns"]

QUANTILE = 0.9
WINDOW = 256
"""First leaves from which it follows how long one takes."""
SMOOTHING = 16
"""Turns over which it is averaged how far they lie apart."""


class _Waiting(NamedTuple):
    deadline: float
    number: int
    turn: asyncio.Future[None]


_deadline = attrgetter("deadline")


class Turns:
    """Lets through one a turn: of the highest priority, the most urgent of those who have as long as it usually takes
    to a first leaf, as `observe` hears it. Where that would be too late for the last of them, those with most time come
    first, and so they do when nobody has as long: served by urgency when there are too many, all would come just too
    late.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._waiting: dict[Priority, list[_Waiting]] = {priority: [] for priority in Priority}
        self._numbers = count()
        self._needed = Window(WINDOW, QUANTILE, empty=0.0)
        self._apart = 0.0
        """Seconds from one turn to the next while requests wait."""
        self._last_at = 0.0
        self._taken = False
        """Whether this turn has let one through."""

    @property
    def needed(self) -> float:
        """Seconds in which it usually comes from its turn to its first leaf; 0 before that is known."""
        return self._needed.value

    def observe(self, seconds: float) -> None:
        """From its turn to its first leaf a request took so long."""
        self._needed.add(seconds)

    async def next(self, deadline: float, priority: Priority) -> None:
        """Wait for a turn of one's own."""
        loop = asyncio.get_running_loop()
        if self._taken:
            turn = loop.create_future()
            insort(self._waiting[priority], _Waiting(deadline, next(self._numbers), turn))
            await turn
        else:
            self._taken, self._last_at = True, self._clock()
            loop.call_soon(self._pass_on)

    def _pass_on(self) -> None:
        now = self._clock()
        if (turn := self._chosen(now)) is None:
            self._taken = False
        else:
            self._apart += (now - self._last_at - self._apart) / SMOOTHING
            self._last_at = now
            turn.set_result(None)
            turn.get_loop().call_soon(self._pass_on)

    def _chosen(self, now: float) -> asyncio.Future[None] | None:
        in_time = now + self.needed
        for queue in self._waiting.values():
            while queue and queue[0].turn.done():  # it was given up, as most are when their time is over
                del queue[0]
            first = bisect_left(queue, in_time, key=_deadline)
            if first == len(queue):
                continue
            others = len(queue) - 1 - first
            next_one = -1 if in_time + others * self._apart > queue[-1].deadline else first
            while first < len(queue):
                if not (turn := queue.pop(next_one).turn).done():
                    return turn
        for queue in self._waiting.values():
            while queue:
                if not (turn := queue.pop().turn).done():
                    return turn
        return None
