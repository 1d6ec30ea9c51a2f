"""The engine in another process, as an API process sees it: the near end of the channel.

Nothing here waits for the engine but its answers to questions. Sending never blocks: if the engine process does not
read, a request is refused at once, and notes are kept, up to a limit, until it does. When the connection breaks the
engine process has ended: whoever waits is answered with what there is, and the service is over.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from dataclasses import replace
from itertools import count
from typing import cast

import numpy as np
import zmq
import zmq.asyncio
from numpy.typing import NDArray
from zmq.utils.monitor import recv_monitor_message

from service.channel.messages import (
    AskFigures,
    AskState,
    Figures,
    Hello,
    News,
    NoAnswer,
    Notes,
    Question,
    Ready,
    Refined,
    State,
    Submit,
    Welcome,
    decode_from_engine,
    encode,
)
from service.channel.questions import Answer, Questions
from service.channel.reports import Reports
from service.client import Admitted, Exposition, Heard, Listener, Submitted
from service.errors import DrainingError, EngineBusyError, EngineLostError, QueueFullError, ServiceError, StartingError
from service.request import Budget, Failure, Refinement, StopReason, Ticket
from service.state import EngineState

__all__ = ["RemoteEngine"]

NEWS_LIMIT = 64
"""Messages that may lie unread before the engine process keeps them back."""
SUBMIT_LIMIT = 256
"""Requests that may be on their way before more are refused."""
RETRY_AFTER = 1.0
UNREAD_SECONDS, LOOK_SECONDS = 0.4, 0.05
"""For which requests may still be read that had been sent when it was told to drain; between looks at who is left."""
LINGER_MS = 1000
"""What is said last is given so long to arrive."""

logger = logging.getLogger(__name__)


class RemoteEngine:
    """An `EngineClient` at a ZeroMQ address.

    Args:
        sha256: the digest of the package that it must serve.
        on_useless: called once where this end can never serve (any more) though the engine does.
    """

    def __init__(
        self,
        address: str,
        sha256: str,
        *,
        clock: Callable[[], float] = time.monotonic,
        on_useless: Callable[[], None] = lambda: None,
    ) -> None:
        self.clock = clock
        self._on_useless = on_useless
        self.failure: ServiceError | None = None
        self.recorder = Reports(self._send_notes)
        self._address = address
        self._sha256 = sha256
        self._listener: Listener = lambda heard: None
        self._numbers = count()
        self._active: dict[int, tuple[Ticket, Refinement | None]] = {}
        """Requests that have not ended, with their latest refinement."""
        self._questions = Questions()
        self._welcome = asyncio.Event()
        self._draining = False

    def start(self) -> None:
        """Connect. The engine process may come up later."""
        self._context = zmq.asyncio.Context()
        self._socket = self._context.socket(zmq.DEALER)
        self._socket.set(zmq.RCVHWM, NEWS_LIMIT)
        self._socket.set(zmq.SNDHWM, SUBMIT_LIMIT)
        monitor = self._socket.get_monitor_socket(zmq.EVENT_DISCONNECTED)
        self._socket.connect(self._address)
        self._send(Hello())
        self._tasks = [asyncio.create_task(self._listen()), asyncio.create_task(self._watch(monitor))]
        self._tasks[0].add_done_callback(self._deaf)

    async def started(self) -> None:
        """See `EngineClient.started`."""
        await self._welcome.wait()

    def listen(self, listener: Listener) -> None:
        """See `EngineClient.listen`."""
        self._listener = listener

    def check_ready(self) -> None:
        """See `EngineClient.check_ready`."""
        if (fault := self._fault) is not None:
            raise fault
        if self._draining:
            raise DrainingError

    def submit(self, image: NDArray[np.float32], budget: Budget, *, within: float = 0.0) -> Submitted:
        """See `EngineClient.submit`; the engine is elsewhere, and computes nothing here."""
        self.check_ready()
        ticket = Ticket(next(self._numbers))
        if not self._send(Submit(ticket.number, budget), np.ascontiguousarray(image, np.float32)):
            raise QueueFullError(RETRY_AFTER)
        self._active[ticket.number] = ticket, None
        return Submitted(ticket, ())

    def cancel(self, ticket: Ticket) -> None:
        """See `EngineClient.cancel`."""
        if self._active.pop(ticket.number, None) is not None:
            self.recorder.cancelled(ticket.number)

    async def snapshot(self) -> EngineState:
        """See `EngineClient.snapshot`."""
        answer = await self._ask(AskState(next(self._numbers)))
        assert isinstance(answer, EngineState)
        return answer

    async def exposition(self, accept: str) -> Exposition:
        """See `EngineClient.exposition`: the engine process's, which holds the figures of all API processes."""
        answer = await self._ask(AskFigures(next(self._numbers), accept))
        assert isinstance(answer, Exposition)
        return answer

    async def drain(self, timeout: float) -> None:
        """Answer the active ones, after `timeout` seconds with what they have, and then take no more.

        Where the whole service ends the engine process has done so already; where only this process does, it goes on.
        """
        until, unread = self.clock() + timeout, self.clock() + (0.0 if self._draining else UNREAD_SECONDS)
        while self.clock() < until and (self._active or self.clock() < unread):
            await asyncio.sleep(LOOK_SECONDS)
        self._draining = True
        for number in self._active:
            self.recorder.cancelled(number)
        self._end_all(StopReason.DRAIN, DrainingError())

    async def close(self) -> None:
        """Say what is left to say, and end."""
        self.recorder.flush()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        self.recorder.stop()
        self._socket.disable_monitor()
        self._context.destroy(linger=0 if self.failure else LINGER_MS)

    # Hear

    async def _listen(self) -> None:
        while True:
            head, *body = await self._socket.recv_multipart(copy=False)
            message = decode_from_engine(head.buffer)
            match message:
                case News():
                    self._hear(message, body)
                case Welcome(sha256):
                    self._greet(sha256)
                case State(number, state):
                    self._questions.answer(number, state)
                case Figures(number, content_type):
                    self._questions.answer(number, Exposition(body[0].bytes, content_type))
                case NoAnswer(number):
                    self._questions.answer(
                        number, ServiceError("the engine process could not answer; its log says why")
                    )

    def _greet(self, sha256: str) -> None:
        if sha256 != self._sha256:
            self.failure = ServiceError("the model package is not the one that the engine serves: it was changed")
            logger.critical("%s", self.failure)
            self._on_useless()
        else:
            self._send(Ready())
        self._welcome.set()

    def _hear(self, news: News, body: list[zmq.Frame]) -> None:
        """Pass on what happened, in the order in which it can have happened to one request."""
        self._draining |= news.draining
        heard: list[tuple[Ticket, Heard]] = [
            (self._active[number][0], Admitted()) for number in news.admitted if number in self._active
        ]
        if news.refined:
            rows = np.frombuffer(body[0].buffer, np.float32).reshape(len(news.refined), -1)
            for refined, probabilities in zip(news.refined, rows, strict=True):
                if (entry := self._active.get(refined.number)) is not None:
                    heard.append((entry[0], self._refine(entry[0], refined, probabilities)))
        heard.extend(
            (self._active.pop(failed.number)[0], Failure(error=failed.fault.error, at=failed.at))
            for failed in news.failed
            if failed.number in self._active
        )
        if heard:
            self._listener(heard)

    def _refine(self, ticket: Ticket, refined: Refined, probabilities: NDArray[np.float32]) -> Refinement:
        refinement = Refinement(
            ensemble_size=refined.ensemble_size,
            flops=refined.flops,
            probabilities=probabilities,
            stop_reason=refined.stop_reason,
            started_at=refined.started_at,
            first_at=refined.first_at,
            at=refined.at,
            ended_at=refined.ended_at,
        )
        if refinement.stop_reason is None:
            self._active[ticket.number] = ticket, refinement
        else:
            del self._active[ticket.number]
        return refinement

    def _end_all(self, reason: StopReason, error: ServiceError) -> None:
        """Answer everyone with what they have."""
        active, self._active = self._active, {}
        at = self.clock()
        heard: list[tuple[Ticket, Heard]] = []
        for ticket, latest in active.values():
            if latest is None:
                heard.append((ticket, Failure(error=error, at=at)))
            else:
                heard.append((ticket, replace(latest, stop_reason=reason, ended_at=at)))
        if heard:
            self._listener(heard)

    # The end of the engine process

    async def _watch(self, monitor: zmq.asyncio.Socket) -> None:
        await recv_monitor_message(monitor)  # the only event asked for
        self._lose()

    def _deaf(self, listening: asyncio.Task[None]) -> None:
        if not listening.cancelled():
            logger.critical("what the engine process says cannot be understood", exc_info=listening.exception())
            self._lose()
            self._on_useless()

    def _lose(self) -> None:
        """The engine is gone: answer everyone with what they have."""
        self.failure = EngineLostError()
        logger.error("%s", self.failure)
        self._end_all(StopReason.ERROR, self.failure)
        self._questions.give_up(self.failure)
        self._welcome.set()

    # Ask

    async def _ask(self, question: Question) -> Answer:
        if (fault := self._fault) is not None:
            raise fault
        self.recorder.flush(always=True)  # an answer holds what this process has counted itself, and how it is doing
        if not self._send(question):
            raise EngineBusyError
        return await self._questions.wait(question.number)

    @property
    def _fault(self) -> ServiceError | None:
        """Why the engine cannot be reached, if it cannot."""
        if self.failure is not None:
            return self.failure.with_traceback(None)  # else each request's frames are added to those before
        return None if self._welcome.is_set() else StartingError()

    # Send

    def _send_notes(self, notes: Notes) -> bool:
        """As `_send`; with the engine gone there is nobody to tell, and nothing to try again."""
        return self.failure is not None or self._send(notes)

    def _send(
        self, message: Hello | Ready | Submit | Notes | Question, body: NDArray[np.float32] | None = None
    ) -> bool:
        """Whether it went out; not if the engine process has not read so many before it."""
        frames = [encode(message)] if body is None else [encode(message), body]
        try:
            sent = self._socket.send_multipart(frames, flags=zmq.DONTWAIT, copy=False)
            cast("asyncio.Future[object]", sent).result()  # it is done already: sent or refused
        except zmq.Again:
            return False
        return True
