"""Reports: what an API process counts, gathered for a while on its way to the engine process, where the figures are.
What is cancelled goes with it, at once."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from service.channel.messages import Answered, Ended, Event, Fault, Missed, Notes, Rejected
from service.client import Outcome
from service.errors import ServiceError
from service.request import StopReason
from service.state import FrontState

__all__ = ["Reports"]

NOTES_SECONDS = 0.1
"""How long figures are gathered."""
EVENTS_LIMIT = 10_000
"""Figures that are kept for an engine process that does not read; then the oldest are lost."""


class Reports:
    """A `RequestRecorder` that gathers what it is told, to be sent where the figures are kept.

    `send` tells whether notes went out; those that did not are tried again.
    """

    def __init__(self, send: Callable[[Notes], bool]) -> None:
        self._send = send
        self._events: deque[Event] = deque(maxlen=EVENTS_LIMIT)
        self._cancelled: list[int] = []
        self._front: Callable[[], FrontState] = FrontState
        self._lagged = False
        """Whether the last notes told of a lag, so that others have to tell that it is over, though nothing happens."""
        self._timer: asyncio.Handle | None = None
        self._due = 0.0
        """When the notes go out. Not every event loop's handles tell (uvloop's of what is due at once)."""

    def watch_front(self, state: Callable[[], FrontState]) -> None:
        """See `RequestRecorder.watch_front`; it is sent with all that is counted."""
        self._front = state

    def rejected(self, error: ServiceError) -> None:
        """See `RequestRecorder.rejected`."""
        self._add(Rejected(Fault.of(error)))

    def answered(self, *, ensemble_size: int, stop_reason: StopReason) -> None:
        """See `RequestRecorder.answered`."""
        self._add(Answered(ensemble_size, stop_reason))

    def deadline_missed(self) -> None:
        """See `RequestRecorder.deadline_missed`."""
        self._add(Missed())

    def request(self, *, endpoint: str, outcome: Outcome, seconds: float, overrun: float | None) -> None:
        """See `RequestRecorder.request`."""
        self._add(Ended(endpoint, outcome, seconds, overrun))

    def cancelled(self, number: int) -> None:
        """A request is cancelled; all that are in the same turn of the loop are one message."""
        self._cancelled.append(number)
        self._later(0)

    def flush(self, *, always: bool = False) -> None:
        """Send what there is; `always`, also how the front is doing where there is nothing else."""
        self.stop()
        if not (always or self._cancelled or self._events or self._lagged):
            return
        front = self._front()
        if self._send(Notes(self._cancelled, list(self._events), front)):
            self._cancelled = []
            self._events.clear()
            self._lagged = front.lag > 0
            if self._lagged:
                self._later(NOTES_SECONDS)
        else:
            self._later(NOTES_SECONDS)

    def stop(self) -> None:
        """Send nothing until there is something new."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _add(self, event: Event) -> None:
        self._events.append(event)
        self._later(NOTES_SECONDS)

    def _later(self, seconds: float) -> None:
        """Send the notes within so many seconds."""
        loop = asyncio.get_running_loop()
        due = loop.time() + seconds
        if self._timer is not None:
            if self._due <= due:
                return
            self._timer.cancel()
        self._timer, self._due = loop.call_at(due, self.flush), due
