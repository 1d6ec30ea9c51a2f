"""Turns: requests are taken up one in each turn of the event loop, so that answers do not wait behind all that came.

Whatever is ready runs before the next turn. When a burst has come, an answer that the engine has just given would have
to wait until every new image is decoded; so the new ones wait for each other instead.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_left, insort
from collections.abc import Callable
from itertools import count
from typing import NamedTuple

from service.request import Priority
from service.window import Window

__all__ = ["Turns"]

QUANTILE = 0.9
WINDOW = 256
"""First leaves from which it follows how long one takes."""


class _Waiting(NamedTuple):
    deadline: float
    number: int
    turn: asyncio.Future[None]


class Turns:
    """Lets through one a turn: of the highest priority, the most urgent of those who have as long as it usually takes
    to a first leaf, as `observe` hears it. The others come when there are none of these, those with most time first:
    served in the order of arrival when there are too many, all would come just too late.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._waiting: dict[Priority, list[_Waiting]] = {priority: [] for priority in Priority}
        self._numbers = count()
        self._needed = Window(WINDOW, QUANTILE, empty=0.0)
        self._taken = False
        """Whether this turn has let one through."""

    @property
    def awaited(self) -> int:
        """How many wait for one, or did until they were given up."""
        return sum(map(len, self._waiting.values()))

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
            self._taken = True
            loop.call_soon(self._pass_on)

    def _pass_on(self) -> None:
        if (turn := self._chosen()) is None:
            self._taken = False
        else:
            turn.set_result(None)
            turn.get_loop().call_soon(self._pass_on)

    def _chosen(self) -> asyncio.Future[None] | None:
        in_time = self._clock() + self._needed.value
        for queue in self._waiting.values():
            while queue and queue[0].turn.done():  # it was given up, as most are when their time is over
                del queue[0]
            first = bisect_left(queue, in_time, key=lambda waiting: waiting.deadline)
            while first < len(queue):
                if not (turn := queue.pop(first).turn).done():
                    return turn
        for queue in self._waiting.values():
            while queue:
                if not (turn := queue.pop().turn).done():
                    return turn
        return None
