"""Delivery: where the engine's thread meets an event loop. A mailbox per request, one wake-up of the loop per step.

    delivery = Delivery(engine)                           # on the loop
    with delivery.submit(image, budget) as mailbox:       # leaving the block cancels what is not answered yet
        async for refinement in mailbox: ...              # for a stream
        answer = await mailbox.answer()                   # or for one reply

A mailbox keeps the latest refinement only, so a slow reader skips some and never slows the engine. It answers at the
deadline by its own timer: a step that overruns makes no answer late that already holds a leaf.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from service.engine import Engine
from service.errors import DeadlineMissedError, ServiceError
from service.metrics import Recorder
from service.request import Budget, Failure, Refinement, StopReason, Ticket, Update

__all__ = ["Delivery", "Mailbox"]

logger = logging.getLogger(__name__)


class Delivery:
    """One event loop's end of an engine. To be made and used on that loop."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._loop = asyncio.get_running_loop()
        self._mailboxes: dict[Ticket, Mailbox] = {}

    def submit(self, image: NDArray[np.float32], budget: Budget) -> Mailbox:
        """Hand a normalised image (C, H, W) to the engine.

        Raises:
            QueueFullError, DrainingError, BudgetError: as `Engine.submit`.
        """
        # The loop runs `_sort` after this function at the earliest, so no update can miss its mailbox.
        ticket = self._engine.submit(image, budget, self._deliver)
        mailbox = Mailbox(
            budget, clock=self._engine.clock, recorder=self._engine.recorder, on_close=lambda: self._forget(ticket)
        )
        self._mailboxes[ticket] = mailbox
        return mailbox

    def _deliver(self, updates: Sequence[tuple[Ticket, Update]]) -> None:
        """The engine's listener: called on its thread, once a step."""
        try:
            self._loop.call_soon_threadsafe(self._sort, updates)
        except RuntimeError:
            logger.warning("the event loop is closed: %d updates have no reader", len(updates))

    def _sort(self, updates: Sequence[tuple[Ticket, Update]]) -> None:
        for ticket, update in updates:
            if (mailbox := self._mailboxes.get(ticket)) is not None:
                mailbox.put(update)

    def _forget(self, ticket: Ticket) -> None:
        if self._mailboxes.pop(ticket, None) is not None:
            self._engine.cancel(ticket)


class Mailbox:
    """What one request has been told so far, on its event loop.

    It hands out its final refinement once, and records the answer when it does.
    """

    def __init__(
        self, budget: Budget, *, clock: Callable[[], float], recorder: Recorder, on_close: Callable[[], None]
    ) -> None:
        self._deadline = budget.deadline
        self._clock = clock
        self._recorder = recorder
        self._on_close = on_close
        self._latest: Refinement | None = None
        self._error: ServiceError | None = None
        self._changed = asyncio.Event()
        self._ended = asyncio.Event()
        self._answered = False

    @property
    def latest(self) -> Refinement | None:
        """The deepest prediction so far; None before the first leaf."""
        return self._latest

    def put(self, update: Update) -> None:
        """Take an update from the engine."""
        if isinstance(update, Failure):
            self._error = update.error
        else:
            self._latest = update
        self._changed.set()
        if isinstance(update, Failure) or update.stop_reason is not None:
            self._ended.set()

    async def next(self, timeout: float | None = None) -> Refinement | None:
        """The newest refinement that was not handed out yet; None after `timeout` seconds without one.

        At the deadline it is the latest one, with stop reason DEADLINE. After the final one it is always None.

        Raises:
            DeadlineMissedError: the deadline came before the first leaf.
            ServiceError: the engine gave the request up without a leaf; see `service.errors`.
        """
        if self._answered:
            return None
        left = self._left()
        deadline_first = left is not None and (timeout is None or left <= timeout)
        if not await _came(self._changed, left if deadline_first else timeout):
            return self._conclude_at_deadline() if deadline_first else None
        self._changed.clear()
        return self._conclude() if self._ended.is_set() else self._latest

    async def answer(self) -> Refinement:
        """The final refinement, at the deadline at the latest, skipping all before it.

        Raises:
            DeadlineMissedError, ServiceError: as `next`.
        """
        in_time = await _came(self._ended, self._left())
        return self._conclude() if in_time else self._conclude_at_deadline()

    async def __aiter__(self) -> AsyncIterator[Refinement]:
        while (refinement := await self.next()) is not None:
            yield refinement

    def close(self) -> None:
        """Nobody reads on: the engine may drop the request. Harmless after the end."""
        self._on_close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _left(self) -> float | None:
        return None if self._deadline is None else self._deadline - self._clock()

    def _conclude_at_deadline(self) -> Refinement:
        if self._ended.is_set():  # in the same turn of the loop as the timer
            return self._conclude()
        if self._latest is None:
            self._error = DeadlineMissedError()
        else:
            self._latest = replace(self._latest, stop_reason=StopReason.DEADLINE)
        return self._conclude()

    def _conclude(self) -> Refinement:
        self._answered = True
        self.close()
        if self._latest is None:
            assert self._error is not None
            if isinstance(self._error, DeadlineMissedError):
                self._recorder.deadline_missed()
            raise self._error
        overrun = None if self._deadline is None else max(0.0, self._clock() - self._deadline)
        self._recorder.answered(self._latest, overrun=overrun)
        return self._latest


async def _came(event: asyncio.Event, timeout: float | None) -> bool:
    """Whether an event came within `timeout` seconds."""
    if event.is_set():
        return True
    try:
        # Not wait_for: up to Python 3.11 it swallows a cancellation that comes together with the event.
        async with asyncio.timeout(timeout):
            await event.wait()
    except TimeoutError:
        return False
    return True
