"""Host: the far end of the channel, in the engine process. One thread between the sockets and the engine.

All updates of an engine step for one API process travel as one message. The engine's thread only leaves them at the
door; this thread sends them, without ever waiting for a reader. Of an API process that does not read, the latest update
of each request is kept and the others are forgotten, and nothing more is taken from it. One that is gone is noticed
when it is written to, with the next step or the next heartbeat: its requests are cancelled.
"""

from __future__ import annotations

import logging
import math
import socket
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from types import TracebackType
from typing import Self

import msgspec
import numpy as np
import zmq

from model_core.package import Package
from service.channel.mail import Peer
from service.channel.messages import (
    Answered,
    AskFigures,
    AskState,
    Ended,
    Event,
    Figures,
    Hello,
    Missed,
    NoAnswer,
    Notes,
    Question,
    Ready,
    Rejected,
    State,
    Submit,
    Welcome,
    decode_from_api,
    encode,
)
from service.engine import Engine
from service.errors import ServiceError
from service.metrics import Recorder

__all__ = ["Host"]

NEWS_LIMIT = 64
"""Messages on their way to one API process, after which its news are kept back and merged."""
SUBMIT_LIMIT = 1024
"""Messages of one API process that may lie unread."""
BEAT_SECONDS = 0.25
"""Between heartbeats: how long an idle API process can be gone unnoticed."""
RETRY_SECONDS = 0.02
"""Until an API process that did not read is tried again."""
TURN = 128
"""Messages to read before news are sent."""

logger = logging.getLogger(__name__)


class Host:
    """Serves an engine, which somebody else started, at a ZeroMQ address. A context: within it the thread runs.

    Raises:
        ZMQError: the address cannot be bound.
    """

    def __init__(self, engine: Engine, recorder: Recorder, package: Package, address: str) -> None:
        self.ready = 0
        """How many API processes have said that they take requests."""
        self._engine = engine
        self._recorder = recorder
        recorder.watch_fronts(lambda: [peer.front for peer in list(self._peers.values())])
        self._sha256 = package.sha256
        self._input_shape = package.manifest.spec.input_shape
        self._unread_limit = engine.settings.max_active + engine.settings.max_waiting
        self._peers: dict[bytes, Peer] = {}
        self._closing = False
        self._quiet = threading.Event()
        """Nothing is left to say."""
        # A question can take many milliseconds, for which no request is to wait.
        self._answering = ThreadPoolExecutor(1, thread_name_prefix="hne-figures")
        self._bell, self._ringer = socket.socketpair()
        self._bell.setblocking(False)
        self._ringer.setblocking(False)
        self._rung = False
        self._context = zmq.Context()
        self._router = self._context.socket(zmq.ROUTER)
        self._router.set(zmq.ROUTER_MANDATORY, 1)  # to be told who is gone, and who does not read
        self._router.set(zmq.SNDHWM, NEWS_LIMIT)
        self._router.set(zmq.RCVHWM, SUBMIT_LIMIT)
        self._router.bind(address)
        self._poller = zmq.Poller()
        self._poller.register(self._router, zmq.POLLIN)
        self._poller.register(self._bell, zmq.POLLIN)
        self._thread = threading.Thread(target=self._serve, name="hne-channel", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._closing = True
        self._ring()
        self._thread.join()
        self._answering.shutdown()
        self._bell.close()
        self._ringer.close()
        self._context.destroy(linger=0)

    @property
    def alive(self) -> bool:
        """Whether its thread runs."""
        return self._thread.is_alive()

    def flush(self, timeout: float) -> bool:
        """Wait until everything that the engine said so far is on its way."""
        self._quiet.clear()
        self._ring()
        return self._quiet.wait(timeout)

    # The thread: read, then tell

    def _serve(self) -> None:
        beat = 0.0
        while not self._closing:
            self._poller.poll(math.ceil(1e3 * self._pause(beat)))
            self._hush()
            self._read()
            if (now := time.monotonic()) >= beat:
                beat = now + BEAT_SECONDS
                for peer in self._peers.values():
                    peer.heartbeat = True
            self._tell(now)

    def _pause(self, beat: float) -> float:
        """Seconds until something is due by itself."""
        due = min([beat, *(peer.retry_at for peer in self._peers.values() if peer.retry_at)])
        return max(0.0, due - time.monotonic())

    def _ring(self) -> None:
        """Wake the thread, from any other."""
        if not self._rung:
            self._rung = True
            with suppress(BlockingIOError):  # it is full of rings
                self._ringer.send(b"\0")

    def _hush(self) -> None:
        with suppress(BlockingIOError):
            self._bell.recv(64)
        self._rung = False  # before the mail is looked at, so that none is overlooked

    # Read

    def _read(self) -> None:
        for _ in range(TURN):
            try:
                identity, head, *body = self._router.recv_multipart(zmq.DONTWAIT, copy=False)
            except zmq.Again:
                return
            try:
                message = decode_from_api(head.buffer)
            except msgspec.DecodeError:
                logger.exception("an API process sent what cannot be understood")
                continue
            if isinstance(message, Hello):
                self._greet(identity.bytes)
            elif (peer := self._peers.get(identity.bytes)) is not None:
                self._take(peer, message, body)

    def _greet(self, identity: bytes) -> None:
        peer = self._peers[identity] = Peer(identity, self._ring)
        peer.letters.append([encode(Welcome(self._sha256))])

    def _take(self, peer: Peer, message: Ready | Submit | Notes | Question, body: Sequence[zmq.Frame]) -> None:
        if peer.unread >= self._unread_limit and not isinstance(message, Notes):
            return  # it hears nothing, so it cannot be refused either: its requests end by its own timers
        match message:
            case Submit():
                self._submit(peer, message, body[0])
            case Notes(cancelled, events, front):
                peer.front = front
                for number in cancelled:
                    if (ticket := peer.forget(number)) is not None:
                        self._engine.cancel(ticket)
                for event in events:
                    self._record(event)
            case Ready():
                self.ready += 1
            case AskState() | AskFigures():
                self._answering.submit(self._answer, peer, message)

    def _submit(self, peer: Peer, submit: Submit, image: zmq.Frame) -> None:
        try:
            x = np.frombuffer(image.buffer, np.float32).reshape(self._input_shape)
            peer.admit(submit.number, self._engine.submit(x, submit.budget, peer.listen))
        except ServiceError as error:
            peer.refuse(submit.number, error, self._engine.clock())
        except Exception as error:  # a fault of our own ends this request, not the service
            logger.exception("a request could not be taken")
            peer.refuse(submit.number, ServiceError(repr(error)), self._engine.clock())

    def _record(self, event: Event) -> None:
        match event:
            case Ended(endpoint, outcome, seconds, overrun):
                self._recorder.request(endpoint=endpoint, outcome=outcome, seconds=seconds, overrun=overrun)
            case Answered(size, reason):
                self._recorder.answered(ensemble_size=size, stop_reason=reason)
            case Missed():
                self._recorder.deadline_missed()
            case Rejected(fault):
                self._recorder.rejected(fault.error)

    def _answer(self, peer: Peer, question: Question) -> None:
        """In a thread of its own."""
        try:
            match question:
                case AskState(number):
                    frames = [encode(State(number, self._engine.snapshot()))]
                case AskFigures(number, accept):
                    text, content_type = self._recorder.exposition(accept)
                    frames = [encode(Figures(number, content_type)), text]
        except Exception:
            logger.exception("a question could not be answered")
            frames = [encode(NoAnswer(question.number))]
        peer.letters.append(frames)
        self._ring()

    # Tell

    def _tell(self, now: float) -> None:
        draining = self._engine.draining
        for peer in list(self._peers.values()):
            peer.collect()
            if now >= peer.retry_at and peer.has_news(draining):
                peer.retry_at = 0.0 if self._tell_all(peer, draining) else now + RETRY_SECONDS
        if not any(peer.has_news(draining) for peer in self._peers.values()):
            self._quiet.set()

    def _tell_all(self, peer: Peer, draining: bool) -> bool:
        """Whether there is nothing left to tell it."""
        while peer.letters:
            if not self._send(peer, peer.letters[0]):
                return False
            peer.letters.popleft()
        if not self._send(peer, peer.news(draining)):
            return False
        peer.told(draining)
        return True

    def _send(self, peer: Peer, frames: Sequence[bytes | memoryview]) -> bool:
        """Whether it went out. Who is not there any more is forgotten."""
        try:
            self._router.send_multipart([peer.identity, *frames], zmq.DONTWAIT)
        except zmq.Again:
            return False
        except zmq.ZMQError as error:
            if error.errno != zmq.EHOSTUNREACH:
                raise
            self._leave(peer)
        return True

    def _leave(self, peer: Peer) -> None:
        if self._peers.pop(peer.identity, None) is not None:
            logger.info("an API process is gone; it had %d requests", len(peer.tickets))
            for ticket in peer.tickets.values():
                self._engine.cancel(ticket)
