"""Lane: work on threads, the most important first, behind a line that is bounded.

    lane = Lane(threads=2, max_waiting=512, name="decode")
    result = await lane.run(work, priority=Priority.NORMAL, deadline=...)

Like the engine's queue: the highest priority first, in it the earliest deadline, and where the line is full, who comes
takes the place of the last of a lower priority. Who gives up leaves the line at once, with all that the work holds.
"""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from heapq import heapify, heappop, heappush
from itertools import count
from typing import Any, NamedTuple, TypeVar

from service.errors import QueueFullError
from service.request import Priority

__all__ = ["Lane"]

RATE = 0.05
"""How much of its deviation one piece of work moves what one usually takes."""

Result = TypeVar("Result")


class _Job(NamedTuple):
    priority: Priority
    deadline: float
    number: int
    work: Callable[[], Any]
    done: Future[Any]


class Lane:
    """A fixed number of threads and the line before them, for one event loop."""

    def __init__(self, *, threads: int, max_waiting: int, name: str) -> None:
        self._threads, self._max_waiting = threads, max_waiting
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix=name)
        self._lock = threading.Lock()
        self._line: list[_Job] = []  # a heap
        self._calls = 0
        """Of `_next` that the pool has and no thread has begun: as many as stand in the line, or more."""
        self._running = 0
        self._seconds = 0.0
        self._numbers = count()

    @property
    def waiting(self) -> int:
        """How many stand in the line."""
        return len(self._line)

    async def run(self, work: Callable[[], Result], *, priority: Priority, deadline: float) -> Result:
        """What the work returns, or raises.

        Raises:
            QueueFullError: the line is full of others that are no less important, now or when more come.
        """
        job = _Job(priority, deadline, next(self._numbers), work, Future())
        with self._lock:
            displaced = self._displaced(priority)
            heappush(self._line, job)
            if self._calls < len(self._line):
                self._calls += 1
                self._pool.submit(self._next)
        if displaced is not None and displaced.done.set_running_or_notify_cancel():
            displaced.done.set_exception(self._full())
        try:
            return await asyncio.wrap_future(job.done)
        except asyncio.CancelledError:
            with self._lock:
                if job in self._line:
                    self._leave(job)
            raise
        finally:
            del job  # as in `_next`

    def close(self) -> None:
        """Stop the threads; work that still waits is dropped, and cancelled for who waits for it."""
        with self._lock:
            waiting, self._line = self._line, []
        for job in waiting:
            job.done.cancel()
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _displaced(self, priority: Priority) -> _Job | None:
        """Who loses a place in the line to one more of a priority; None where there is a free one."""
        if self._running + len(self._line) < self._threads + self._max_waiting:
            return None
        last = max(self._line, default=None)
        if last is None or last.priority <= priority:
            raise self._full()
        self._leave(last)
        return last

    def _leave(self, job: _Job) -> None:
        self._line.remove(job)
        heapify(self._line)

    def _next(self) -> None:
        """On a thread: the most important of those in the line."""
        with self._lock:
            self._calls -= 1
            if not self._line:  # someone has left it
                return
            _, _, _, work, done = heappop(self._line)
            if not done.set_running_or_notify_cancel():
                return
            self._running += 1
        began, result = time.monotonic(), None
        fault: BaseException | None = None
        try:
            result = work()
        except BaseException as error:
            fault = error
        with self._lock:
            self._running -= 1
            self._seconds += RATE * (time.monotonic() - began - self._seconds)
        if fault is None:
            done.set_result(result)
        else:
            done.set_exception(fault)
        del work, done, fault  # else an error holds its traceback, that this frame, and this frame what it was made of

    def _full(self) -> QueueFullError:
        return QueueFullError(len(self._line) * self._seconds / self._threads)
