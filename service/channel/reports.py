"""Reports: what an API process counts, gathered for a while on its way to the engine process, where the figures are."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from service.channel.messages import Answered, Ended, Event, Fault, Missed, Rejected
from service.errors import ServiceError
from service.request import StopReason
from service.state import FrontState

__all__ = ["NOTES_SECONDS", "Reports"]

NOTES_SECONDS = 0.1
"""How long figures are gathered."""
EVENTS_LIMIT = 10_000
"""Figures that are kept for an engine process that does not read; then the oldest are lost."""


class Reports:
    """A `RequestRecorder` that gathers what it is told, to be sent where the figures are kept."""

    def __init__(self, later: Callable[[float], None]) -> None:
        self.events: deque[Event] = deque(maxlen=EVENTS_LIMIT)
        self.front: Callable[[], FrontState] = FrontState
        self._later = later

    def watch_front(self, state: Callable[[], FrontState]) -> None:
        """See `RequestRecorder.watch_front`; it is sent with all that is counted."""
        self.front = state

    def rejected(self, error: ServiceError) -> None:
        """See `RequestRecorder.rejected`."""
        self._add(Rejected(Fault.of(error)))

    def answered(self, *, ensemble_size: int, stop_reason: StopReason) -> None:
        """See `RequestRecorder.answered`."""
        self._add(Answered(ensemble_size, stop_reason))

    def deadline_missed(self) -> None:
        """See `RequestRecorder.deadline_missed`."""
        self._add(Missed())

    def request(self, *, endpoint: str, outcome: str, seconds: float, overrun: float | None) -> None:
        """See `RequestRecorder.request`."""
        self._add(Ended(endpoint, outcome, seconds, overrun))

    def _add(self, event: Event) -> None:
        self.events.append(event)
        self._later(NOTES_SECONDS)
