"""The generator: sends a plan's requests over HTTP at their intended times, whatever has become of the earlier ones.

    outcomes = offer("http://127.0.0.1:8000", plan, images, Predict())

It is to run in another process than the server. Everything is prepared before the first request and read after the
last: in between it only sends and takes down instants, at some 0.15 ms of processor time a request, and where it may
before whatever else wants the processor (`punctual`).
"""

from __future__ import annotations

import asyncio
import signal
import time
from collections.abc import Sequence
from contextlib import closing
from functools import partial
from math import inf, nan

from benchmarks.load.connections import Connections, Request, on_fast_loop
from benchmarks.load.dialects import Ask, Dialect
from benchmarks.load.outcomes import ANSWERED, LOST, Outcome
from benchmarks.load.plan import Plan
from benchmarks.load.punctual import punctual
from benchmarks.load.uncollected import uncollected

__all__ = ["PATIENCE", "closed_loop", "offer"]

PATIENCE = 10.0
"""Seconds to wait for an answer at most; after that the request is lost."""
LEAD = 0.1
"""Seconds from the end of the preparation to the plan's start."""
BROKEN = 599
"""Status of an answer of 200 that holds no prediction."""


def offer(
    url: str,
    plan: Plan,
    images: Sequence[tuple[str, bytes]],
    dialect: Dialect,
    *,
    patience: float = PATIENCE,
    start: float | None = None,
) -> list[Outcome]:
    """Send the plan's requests; `images` are class names with encoded images. To be called on the main thread.

    The plan starts at the instant `start` of `time.perf_counter`; if unset, as soon as all is prepared.
    Returns one outcome per request, in the plan's order.
    """
    requests = [
        _request(url, dialect.ask(images[image][1], deadline))
        for image, deadline in zip(plan.images, plan.deadlines, strict=True)
    ]
    run = _Run(plan, requests, dialect.first_prediction, patience, start)
    with uncollected(), punctual():
        on_fast_loop(run(url))
    return [run.outcome(index, dialect, images[image][0]) for index, image in enumerate(plan.images)]


def closed_loop(
    url: str, images: Sequence[tuple[str, bytes]], dialect: Dialect, *, clients: int, seconds: float
) -> list[float]:
    """The latencies (seconds) of so many clients without deadlines, each sending its next when it has its answer.

    `clients / mean(latencies)` is what the server carries. Raises SystemExit if an answer is no prediction.
    """
    requests = [_request(url, dialect.ask(image, inf)) for _, image in images]
    latencies: list[float] = []

    async def client(connections: Connections, number: int) -> None:
        started, sent = time.perf_counter(), number
        stop = started + seconds
        while started < stop:
            reply = await connections.exchange(requests[sent % len(requests)])
            if reply.status != ANSWERED:
                raise SystemExit(f"{url} answers {reply.status}: {reply.body[:200]!r}")
            latencies.append(reply.at - started)
            # From one answer to the next: what the client takes between them is part of the cycle.
            started, sent = reply.at, sent + clients

    async def all_clients() -> None:
        with closing(Connections(url, patience=PATIENCE)) as connections:
            await asyncio.gather(*(client(connections, number) for number in range(clients)))

    on_fast_loop(all_clients())
    return latencies


def _request(url: str, ask: Ask) -> Request:
    return Request.post(url, ask.path, ask.headers, ask.body)


class _Run:
    """Instants, statuses and bodies of one run."""

    def __init__(
        self,
        plan: Plan,
        requests: Sequence[Request],
        first_prediction: bytes | None,
        patience: float,
        start: float | None,
    ) -> None:
        self._plan = plan
        self._arrivals: list[float] = plan.arrivals.tolist()
        self._requests = requests
        self._first_prediction = first_prediction
        self._patience = patience
        self._start = start
        self._sent, self._answered, self._first = ([nan] * len(requests) for _ in range(3))
        self._statuses = [LOST] * len(requests)
        self._bodies = [b""] * len(requests)

    async def __call__(self, url: str) -> None:
        loop = asyncio.get_running_loop()
        tasks: list[asyncio.Task[None]] = []
        all_sent = asyncio.Event()
        with closing(Connections(url, patience=self._patience)) as connections:
            self._zero = time.perf_counter() + LEAD if self._start is None else self._start

            def send_due() -> None:
                now = self._now()
                while len(tasks) < len(self._requests) and self._arrivals[len(tasks)] <= now:
                    tasks.append(loop.create_task(self._send(connections, len(tasks))))
                if len(tasks) == len(self._requests):
                    all_sent.set()
                else:
                    signal.setitimer(signal.ITIMER_REAL, max(self._arrivals[len(tasks)] - self._now(), 1e-6))

            # The loop's own timers are exact to a millisecond; these wake it within some 0.1 ms.
            loop.add_signal_handler(signal.SIGALRM, send_due)
            try:
                send_due()
                await all_sent.wait()
            finally:
                signal.setitimer(signal.ITIMER_REAL, 0)
                loop.remove_signal_handler(signal.SIGALRM)
            await asyncio.gather(*tasks)

    async def _send(self, connections: Connections, index: int) -> None:
        first = self._first_prediction
        on_body = None if first is None else partial(self._look_for, first, bytearray(), index)
        self._sent[index] = self._now()
        try:
            reply = await connections.exchange(self._requests[index], on_body)
        except OSError:
            return  # it stays lost
        self._answered[index] = reply.at - self._zero
        self._statuses[index], self._bodies[index] = reply.status, reply.body

    def _look_for(self, first: bytes, seen: bytearray, index: int, piece: bytes) -> None:
        seen += piece
        if self._first[index] != self._first[index] and first in seen:
            self._first[index] = self._now()

    def _now(self) -> float:
        return time.perf_counter() - self._zero

    def outcome(self, index: int, dialect: Dialect, label: str) -> Outcome:
        """What came of a request for an image of class `label`."""
        status, reply = self._statuses[index], None
        if status == ANSWERED:
            try:
                reply = dialect.prediction(self._bodies[index])
            except (ValueError, LookupError):
                status = BROKEN
        return Outcome(
            intended=self._arrivals[index],
            sent=self._sent[index],
            answered=self._answered[index],
            deadline=float(self._plan.deadlines[index]),
            status=status,
            first=self._first[index],
            ensemble_size=reply.ensemble_size if reply else 0,
            flops=reply.flops if reply else 0,
            correct=reply is not None and reply.label == label,
            cut=reply is not None and reply.cut,
        )
