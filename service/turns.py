"""Turns: requests are taken up one in each turn of the event loop, so that answers do not wait behind all that came.

Whatever is ready runs before the next turn. When a burst has come, an answer that the engine has just given would have
to wait until every new image is decoded; so the new ones wait for each other instead.
"""

from __future__ import annotations

import asyncio
from collections import deque

__all__ = ["Turns"]


class Turns:
    """Lets through one a turn, in the order of arrival."""

    def __init__(self) -> None:
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._taken = False
        """Whether this turn has let one through."""

    async def next(self) -> None:
        """Wait for a turn of one's own."""
        loop = asyncio.get_running_loop()
        if self._taken:
            turn = loop.create_future()
            self._waiting.append(turn)
            await turn
        else:
            self._taken = True
            loop.call_soon(self._pass_on)

    def _pass_on(self) -> None:
        while self._waiting:
            turn = self._waiting.popleft()
            if not turn.done():  # it may have been given up
                turn.set_result(None)
                turn.get_loop().call_soon(self._pass_on)
                return
        self._taken = False
