"""Delivery: what an engine says, sorted into a mailbox per request. One wake-up of the event loop per engine step.

    delivery = Delivery(engine)                           # on the loop
    with delivery.submit(image, budget) as mailbox:       # leaving the block cancels what is not answered yet
        await mailbox.admitted()                          # or refused
        async for refinement in mailbox: ...              # for a stream
        answer = await mailbox.answer()                   # or for one reply

A mailbox keeps the latest refinement only, so a slow reader skips some and never slows the engine. It answers by its
own timer, when refinements were to end with what it holds, or at the deadline that there was no leaf: a step that
overruns makes no answer late that already holds a leaf.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from dataclasses import replace
from functools import partial
from types import TracebackType
from typing import Self

import numpy as np
from numpy.typing import NDArray

from service.client import Admitted, EngineClient, Heard, RequestRecorder
from service.errors import DeadlineMissedError, ServiceError
from service.request import Budget, Failure, Refinement, StopReason, Ticket

__all__ = ["Delivery", "Mailbox"]


class Delivery:
    """One event loop's requests at an engine."""

    def __init__(self, engine: EngineClient) -> None:
        self._engine = engine
        self._mailboxes: dict[Ticket, Mailbox] = {}
        engine.listen(self._sort)

    def submit(self, image: NDArray[np.float32], budget: Budget, *, within: float = 0.0) -> Mailbox:
        """Hand a normalised image (C, H, W) to the engine; `within` as there.

        Raises:
            ServiceError: it is refused, and that is known already. Otherwise `Mailbox.admitted` tells.
        """
        # The loop runs `_sort` after this function at the earliest, so no update can miss its mailbox.
        ticket, news = self._engine.submit(image, budget, within=within)
        mailbox = Mailbox(
            budget,
            news,
            clock=self._engine.clock,
            recorder=self._engine.recorder,
            on_close=lambda: self._forget(ticket),
        )
        if not mailbox.ended:
            self._mailboxes[ticket] = mailbox
        return mailbox

    def _sort(self, heard: Sequence[tuple[Ticket, Heard]]) -> None:
        for ticket, news in heard:
            if (mailbox := self._mailboxes.get(ticket)) is not None:
                mailbox.put(news)
                if mailbox.ended:
                    self._mailboxes.pop(ticket, None)  # there is nothing left to cancel

    def _forget(self, ticket: Ticket) -> None:
        if self._mailboxes.pop(ticket, None) is not None:
            self._engine.cancel(ticket)


class Mailbox:
    """What one request has been told so far, on its event loop: `news`, and what is `put` into it later.

    It hands out its final refinement once, and has the answer counted soon after.
    """

    def __init__(
        self,
        budget: Budget,
        news: Iterable[Heard] = (),
        *,
        clock: Callable[[], float],
        recorder: RequestRecorder,
        on_close: Callable[[], None],
    ) -> None:
        self._deadline = budget.deadline
        self._refining = True
        """Whether there is time for refinements; what comes when there is none is the last."""
        self._clock = clock
        self._recorder = recorder
        self._on_close = on_close
        self._latest: Refinement | None = None
        self._error: ServiceError | None = None
        self._taken = False
        self._heard = asyncio.Event()
        self._changed = asyncio.Event()
        self._ended = asyncio.Event()
        self._answered = False
        self._timer: asyncio.Handle | None = None
        for each in news:
            self.put(each)
        if not self.ended:
            self._wait_until(budget.refine_by, budget.deadline)

    @property
    def latest(self) -> Refinement | None:
        """The deepest prediction so far; None before the first leaf."""
        return self._latest

    @property
    def ended(self) -> bool:
        """Whether the engine has said its last word of the request."""
        return self._ended.is_set()

    def put(self, news: Heard) -> None:
        """Take what the engine says of the request."""
        self._heard.set()
        if isinstance(news, Admitted):
            self._taken = True
            return
        if isinstance(news, Failure):
            self._error = news.error
        else:
            self._latest, self._taken = news, True
            if news.stop_reason is None and not self._refining:
                self._stop(news.at)
        self._changed.set()
        if isinstance(news, Failure) or news.stop_reason is not None:
            self._ended.set()

    async def admitted(self) -> None:
        """Wait until the engine has taken the request, or its time is over: then `answer` and `next` say so.

        Raises:
            QueueFullError, DrainingError, BudgetError, ServiceError: it has refused it.
        """
        await self._heard.wait()
        if not self._taken and not isinstance(self._error, DeadlineMissedError):
            self._conclude()

    async def next(self, timeout: float | None = None) -> Refinement | None:
        """The newest refinement that was not handed out yet; None after `timeout` seconds without one.

        When refinements were to end it is the latest one, with stop reason DEADLINE. After the final one it is always
        None.

        Raises:
            DeadlineMissedError: the deadline came before the first leaf.
            ServiceError: the engine gave the request up without a leaf; see `service.errors`.
        """
        if self._answered:
            return None
        try:
            # Not wait_for: up to Python 3.11 it swallows a cancellation that comes together with the event.
            async with asyncio.timeout(timeout):
                await self._changed.wait()
        except TimeoutError:
            return None
        self._changed.clear()
        return self._conclude() if self._ended.is_set() else self._latest

    async def answer(self) -> Refinement:
        """The final refinement, at the deadline at the latest, skipping all before it.

        Raises:
            DeadlineMissedError, ServiceError: as `next`.
        """
        await self._ended.wait()
        return self._conclude()

    async def __aiter__(self) -> AsyncIterator[Refinement]:
        while (refinement := await self.next()) is not None:
            yield refinement

    def close(self) -> None:
        """Nobody reads on: the engine may drop the request. Harmless after the end."""
        if self._timer is not None:
            self._timer.cancel()
        self._on_close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _wait_until(self, *instants: float | None) -> None:
        """Look again at the first of these instants."""
        if due := [instant for instant in instants if instant is not None]:
            # In two turns: the loop may have been told of an end, or of a leaf, already, and not have got to it.
            loop, first = asyncio.get_running_loop(), min(due)

            def look() -> None:
                self._timer = loop.call_soon(self._look, first)

            self._timer = loop.call_later(max(first - self._clock(), 0.0), look)

    def _look(self, instant: float) -> None:
        """End the request with what it has; with nothing only at its deadline."""
        if self._ended.is_set():
            return
        self._refining = False
        if self._latest is not None:
            self._stop(instant)
        elif self._deadline is not None and instant >= self._deadline:
            self._error = DeadlineMissedError()
            self._over()
        else:
            self._wait_until(self._deadline)

    def _stop(self, instant: float) -> None:
        """Its latest refinement is the last."""
        assert self._latest is not None
        self._latest = replace(self._latest, stop_reason=StopReason.DEADLINE, ended_at=instant)
        self._over()

    def _over(self) -> None:
        for event in (self._heard, self._changed, self._ended):
            event.set()
        self.close()

    def _conclude(self) -> Refinement:
        self._answered = True
        self.close()
        if self._latest is None:
            assert self._error is not None
            if isinstance(self._error, DeadlineMissedError):
                self._recorder.deadline_missed()
            raise self._error
        answer = self._latest
        assert answer.stop_reason is not None
        # The answer need not wait for it.
        counted = partial(self._recorder.answered, ensemble_size=answer.ensemble_size, stop_reason=answer.stop_reason)
        asyncio.get_running_loop().call_soon(counted)
        return answer
