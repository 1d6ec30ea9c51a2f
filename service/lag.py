"""Lag: how long what has become ready waits for its turn on the event loop.

A request is read when the loop next looks at its sockets; by then a busy one has let it lie, for as long as it took to
go through all that was ready before. Nothing tells that age, so it is estimated: a timer that is due every few
milliseconds is late by part of a turn, and the latest of its last beats by nearly a whole one.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque

__all__ = ["LoopLag"]

INTERVAL = 0.005
"""Seconds between two beats."""
BEATS = 8
"""That it looks back on: a burst is forgotten after some 40 ms."""
PAUSE_BEATS = 2
"""That a single late one counts for."""
RESOLUTION = 0.0015
"""Seconds by which the timers of an idle loop are late at most."""


class LoopLag:
    """The lag of the event loop that starts it."""

    def __init__(self) -> None:
        self._lates = deque([0.0] * BEATS, BEATS)
        self._seconds = 0.0
        self._timer: asyncio.TimerHandle | None = None

    @property
    def seconds(self) -> float:
        """How long ago what is read now became ready, at most."""
        return self._seconds

    def start(self) -> None:
        """Watch the running loop."""
        self._loop = asyncio.get_running_loop()
        self._wait()

    def stop(self) -> None:
        """Watch no more."""
        if self._timer is not None:
            self._timer.cancel()

    def _wait(self) -> None:
        # Not the loop's own clock: uvloop's stands still during a turn, and would always be in time.
        self._due = time.monotonic() + INTERVAL
        self._timer = self._loop.call_later(INTERVAL, self._beat)

    def _beat(self) -> None:
        late = time.monotonic() - self._due
        self._lates.append(max(late, 0.0))
        *_, usual, _ = sorted(self._lates)
        latest = max(usual, *list(self._lates)[-PAUSE_BEATS:])
        self._seconds = latest if latest > RESOLUTION else 0.0
        self._wait()
