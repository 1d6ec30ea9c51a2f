"""Mail: what the engine process still has to tell one API process."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from service.channel.messages import Failed, Fault, News, Refined, encode
from service.errors import ServiceError
from service.request import Failure, Refinement, Ticket, Update
from service.state import FrontState

__all__ = ["Peer"]


class Peer:
    """One API process. Only `listen` is called, and `letters` added to, on other threads than the channel's."""

    def __init__(self, identity: bytes, ring: Callable[[], None]) -> None:
        self.identity = identity
        self.tickets: dict[int, Ticket] = {}
        """Its requests in the engine, by the numbers it gave them."""
        self.letters: deque[list[bytes]] = deque()
        """Messages other than news, ready to be sent."""
        self.heartbeat = False
        """It is to be told something, even if there is nothing to tell."""
        self.front = FrontState()
        """How it is doing, as it said last."""
        self.retry_at = 0.0
        """When to try again, since it did not read; 0 if it does."""
        self._ring = ring
        self._numbers: dict[Ticket, int] = {}
        self._arrived: deque[Sequence[tuple[Ticket, Update]]] = deque()
        self._admitted: set[int] = set()
        self._updates: dict[int, Update] = {}  # the latest of each request
        self._knows_of_drain = False

    def listen(self, updates: Sequence[tuple[Ticket, Update]]) -> None:
        """The engine's listener: called on its thread, once a step."""
        self._arrived.append(updates)
        self._ring()

    def admit(self, number: int, ticket: Ticket) -> None:
        """The engine has taken a request."""
        self.tickets[number] = ticket
        self._numbers[ticket] = number
        self._admitted.add(number)

    def refuse(self, number: int, error: ServiceError, at: float) -> None:
        """The engine does not take a request."""
        self._updates[number] = Failure(error=error, at=at)

    def forget(self, number: int) -> Ticket | None:
        """It cancels a request; None if that has ended."""
        self._updates.pop(number, None)
        if (ticket := self.tickets.pop(number, None)) is not None:
            del self._numbers[ticket]
        return ticket

    def collect(self) -> None:
        """Sort what the engine said: of each request only the latest is of interest."""
        while self._arrived:
            for ticket, update in self._arrived.popleft():
                if (number := self._numbers.get(ticket)) is None:
                    continue  # cancelled meanwhile
                self._updates[number] = update
                if isinstance(update, Failure) or update.stop_reason is not None:
                    del self.tickets[number], self._numbers[ticket]

    @property
    def unread(self) -> int:
        """How much there is to tell."""
        return len(self._updates) + len(self._admitted) + len(self.letters)

    def has_news(self, draining: bool) -> bool:
        """Whether there is something to tell."""
        drain = draining and not self._knows_of_drain
        return bool(self.heartbeat or drain or self._arrived or self.unread)

    def news(self, draining: bool) -> list[bytes | memoryview]:
        """All of it as one message."""
        refined: list[Refined] = []
        rows: list[NDArray[np.float32]] = []
        failed: list[Failed] = []
        for number, update in self._updates.items():
            if isinstance(update, Refinement):
                refined.append(
                    Refined(
                        number,
                        update.ensemble_size,
                        update.flops,
                        update.stop_reason,
                        update.started_at,
                        update.first_at,
                        update.at,
                        update.ended_at,
                    )
                )
                rows.append(update.probabilities)
            else:
                failed.append(Failed(number, Fault.of(update.error), update.at))
        head = encode(News(draining, list(self._admitted), refined, failed))
        return [head, np.stack(rows).data] if rows else [head]

    def told(self, draining: bool) -> None:
        """It has been sent."""
        self._admitted, self._updates = set(), {}
        self._knows_of_drain = draining
        self.heartbeat = False
