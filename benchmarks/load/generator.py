"""The generator: sends a plan's requests over HTTP at their intended times, whatever has become of the earlier ones.

    outcomes = offer("http://127.0.0.1:8000", plan, images, Predict())

It is to run in another process than the server. Everything is prepared before the first request and read after the
last: in between it only sends and takes down instants, at some 0.2 ms of processor time a request.
"""

from __future__ import annotations

import asyncio
import gc
import signal
import time
from collections.abc import Sequence
from math import inf, nan

import aiohttp

from benchmarks.load.dialects import Ask, Dialect
from benchmarks.load.outcomes import ANSWERED, LOST, Outcome
from benchmarks.load.plan import Plan

__all__ = ["PATIENCE", "closed_loop", "offer"]

PATIENCE = 10.0
"""Seconds to wait for an answer at most; after that the request is lost."""
KEEP_ALIVE = 2.0
"""Seconds for which idle connections are used again: less than any server keeps them, so that none closes on us."""
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
    asks = [
        dialect.ask(images[image][1], deadline) for image, deadline in zip(plan.images, plan.deadlines, strict=True)
    ]
    run = _Run(plan, asks, dialect.first_prediction, patience, start)
    gc.collect()
    gc.disable()  # a collection in between would hold back what is due
    try:
        asyncio.run(run(url))
    finally:
        gc.enable()
    return [run.outcome(index, dialect, images[image][0]) for index, image in enumerate(plan.images)]


def closed_loop(
    url: str, images: Sequence[tuple[str, bytes]], dialect: Dialect, *, clients: int, seconds: float
) -> list[float]:
    """The latencies (seconds) of so many clients without deadlines, each sending its next when it has its answer.

    `clients / mean(latencies)` is what the server carries. Raises SystemExit if an answer is no prediction.
    """
    asks = [dialect.ask(image, inf) for _, image in images]
    latencies: list[float] = []

    async def client(session: aiohttp.ClientSession, number: int) -> None:
        stop, sent = time.perf_counter() + seconds, number
        while time.perf_counter() < stop:
            ask = asks[sent % len(asks)]
            started = time.perf_counter()
            async with session.post(ask.path, data=ask.body, headers=ask.headers) as response:
                body = await response.read()
            latencies.append(time.perf_counter() - started)
            if response.status != ANSWERED:
                raise SystemExit(f"{url}{ask.path} answers {response.status}: {body[:200]!r}")
            sent += clients

    async def all_clients() -> None:
        async with _session(url, PATIENCE) as session:
            await asyncio.gather(*(client(session, number) for number in range(clients)))

    asyncio.run(all_clients())
    return latencies


def _session(url: str, patience: float) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        url,
        connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=KEEP_ALIVE),
        timeout=aiohttp.ClientTimeout(total=patience),
        auto_decompress=False,
        cookie_jar=aiohttp.DummyCookieJar(),
    )


class _Run:
    """Instants, statuses and bodies of one run."""

    def __init__(
        self, plan: Plan, asks: Sequence[Ask], first_prediction: bytes | None, patience: float, start: float | None
    ) -> None:
        self._plan = plan
        self._arrivals: list[float] = plan.arrivals.tolist()
        self._asks = asks
        self._first_prediction = first_prediction
        self._patience = patience
        self._start = start
        self._sent, self._answered, self._first = ([nan] * len(asks) for _ in range(3))
        self._statuses = [LOST] * len(asks)
        self._bodies = [b""] * len(asks)

    async def __call__(self, url: str) -> None:
        loop = asyncio.get_running_loop()
        tasks: list[asyncio.Task[None]] = []
        all_sent = asyncio.Event()
        async with _session(url, self._patience) as session:
            self._zero = time.perf_counter() + LEAD if self._start is None else self._start

            def send_due() -> None:
                now = self._now()
                while len(tasks) < len(self._asks) and self._arrivals[len(tasks)] <= now:
                    tasks.append(loop.create_task(self._send(session, len(tasks))))
                if len(tasks) == len(self._asks):
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

    async def _send(self, session: aiohttp.ClientSession, index: int) -> None:
        ask = self._asks[index]
        self._sent[index] = self._now()
        try:
            async with session.post(ask.path, data=ask.body, headers=ask.headers) as response:
                if self._first_prediction is None:
                    self._bodies[index] = await response.read()
                else:
                    await self._read_stream(response, index, self._first_prediction)
                self._answered[index] = self._now()
                self._statuses[index] = response.status
        except (aiohttp.ClientError, TimeoutError):
            pass  # it stays lost

    async def _read_stream(self, response: aiohttp.ClientResponse, index: int, first_prediction: bytes) -> None:
        async for chunk in response.content.iter_any():
            self._bodies[index] += chunk
            if self._first[index] != self._first[index] and first_prediction in self._bodies[index]:
                self._first[index] = self._now()

    def _now(self) -> float:
        return time.perf_counter() - self._zero

    def outcome(self, index: int, dialect: Dialect, label: str) -> Outcome:
        """What came of a request for an image of class `label`."""
        status, reply = self._statuses[index], None
        if status == ANSWERED:
            try:
                reply = dialect.reply(self._bodies[index])
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
