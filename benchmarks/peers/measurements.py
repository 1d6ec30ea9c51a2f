"""Measuring one server: what a request costs beside its work, and goodput under open-loop load."""

from __future__ import annotations

import http.client
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import inf
from pathlib import Path
from statistics import mean, median
from typing import Any
from urllib.parse import urlsplit

from benchmarks.load.dialects import Ask
from benchmarks.load.generator import offer
from benchmarks.load.outcomes import summary
from benchmarks.load.plan import constant, draw_plan
from benchmarks.peers.record import Cell, Record
from benchmarks.peers.servers import OURS, Server, ServerError, running
from benchmarks.peers.workload import Workload
from benchmarks.peers.yardstick import Yardstick, thread_counts, work_ms

__all__ = ["Bench", "deadline_ms"]

ALONE = 300
"""Requests of the overhead measurement, one at a time; a third of them warms up."""
RELAXED_MS = 10_000.0
"""The deadline of the overhead measurement: nothing is to be given up."""
WAIT_SHARE = 0.1
"""Share of the deadline that a batch may wait for more requests."""
WARM_UP_RHO, WARM_UP_SECONDS = 0.5, 3.0
PILOT, PILOT_RHOS = -1, (0.3, 1.0)
"""Repeat and loads of the pilot that chooses a peer's threads."""
PATIENCE = 10
"""Deadlines after which the client gives an answer up: it has long been lost."""
SETTLE_SECONDS = 0.3
ANSWER_SECONDS = 120.0
"""A server that has not worked off a cell's load after so long has failed."""


def deadline_ms(text: str, yardstick: Yardstick) -> float:
    """`30` is milliseconds, `3x` so many times the full ensemble's latency on one image."""
    return float(text[:-1]) * yardstick.full_ms["1"] if text.endswith("x") else float(text)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bench:
    """What all servers are measured with."""

    record: Record
    yardstick: Yardstick
    images: Sequence[tuple[str, bytes]]
    """Class names and encoded images."""
    rhos: Sequence[float]
    seconds: float
    seed: int
    logs: Path

    def overhead(self, server: Server, python: Path, base: Workload, repeat: int) -> None:
        """One request at a time, the single network, no batching, one thread or all, whichever is faster; what that
        takes without a server, just before."""
        cell = Cell(server=server.name, networks=1, deadline="none", rho=0.0, repeat=repeat)
        if self.record.find(cell) is not None:
            return
        images = [image for _, image in self.images]
        workload = replace(base, deadline_ms=RELAXED_MS, queue_ms=RELAXED_MS, max_batch=1, batch_wait_ms=0.0)
        choices = [replace(workload, threads=threads) for threads in thread_counts(workload)]
        work, workload = min(((work_ms(choice, images), choice) for choice in choices), key=lambda pair: pair[0])
        with self._running(server, python, workload, cell) as url:
            connection = _connection(url)
            times = []
            for index in range(ALONE):
                _, image = self.images[index % len(self.images)]
                ask = server.alone.ask(image, inf)
                started = time.perf_counter()
                status = _status(connection, ask)
                times.append(1e3 * (time.perf_counter() - started))
                if status != 200:
                    raise ServerError(f"{server.name} answers {status} when it is idle: see {self._log(cell)}")
            connection.close()
        milliseconds = median(times[ALONE // 3 :])
        self.record.add(cell, {"p50 ms": milliseconds, "work ms": work, "overhead ms": milliseconds - work})

    def goodput(self, server: Server, python: Path, base: Workload, deadline: str, repeat: int) -> None:
        """Open loop, at every load."""
        cells = [
            Cell(server=server.name, networks=base.size, deadline=deadline, rho=rho, repeat=repeat) for rho in self.rhos
        ]
        missing = [cell for cell in cells if self.record.find(cell) is None]
        if not missing:
            return
        limit = deadline_ms(deadline, self.yardstick)
        workload = self._tuned(base, limit)
        if server is not OURS:
            workload = replace(workload, threads=self._threads(server, python, workload, missing[0], limit))
        with self._running(server, python, workload, missing[0]) as url:
            self._offer(url, server, missing[0], WARM_UP_RHO, limit, WARM_UP_SECONDS)
            for cell in missing:
                figures = self._offer(url, server, cell, cell.rho, limit, self.seconds)
                settings = {"max batch": workload.max_batch, "threads": workload.threads, "deadline ms": limit}
                self.record.add(cell, settings | figures)
                print(
                    f"{cell.server:>9} of {cell.networks:>2}, {deadline}, rho {cell.rho}: {figures['goodput']:.1%}",
                    flush=True,
                )

    def _threads(self, server: Server, python: Path, workload: Workload, cell: Cell, limit: float) -> int:
        """How many threads are to share a batch: which of one and all brings the peer more in a pilot. Ours finds out
        by itself."""
        key = f"{cell.server} {cell.networks} {cell.deadline}"
        pilots: dict[str, dict[str, float]] = self.record["pilots"] or {}
        if key not in pilots:
            goodput = {}
            for threads in thread_counts(workload):
                with self._running(server, python, replace(workload, threads=threads), cell) as url:
                    pilot = replace(cell, repeat=PILOT)
                    self._offer(url, server, pilot, WARM_UP_RHO, limit, WARM_UP_SECONDS)
                    found = [self._offer(url, server, pilot, rho, limit, WARM_UP_SECONDS) for rho in PILOT_RHOS]
                goodput[str(threads)] = mean(figures["goodput"] for figures in found)
            self.record["pilots"] = pilots = pilots | {key: goodput}
        return int(max(pilots[key], key=lambda threads: pilots[key][threads]))

    def _tuned(self, base: Workload, limit: float) -> Workload:
        """Batches as large as the deadline allows."""
        times = self.yardstick.times(base.size > 1)
        max_batch = self.yardstick.max_batch(base.size > 1, limit)
        return replace(
            base,
            deadline_ms=limit,
            queue_ms=max(limit - times[max_batch], limit / 10),
            max_batch=max_batch,
            batch_wait_ms=WAIT_SHARE * limit,
        )

    def _offer(self, url: str, server: Server, cell: Cell, rho: float, limit: float, seconds: float) -> dict[str, Any]:
        plan = draw_plan(
            constant(rho * self.yardstick.capacity, seconds),
            deadlines=[limit / 1e3],
            images=len(self.images),
            seed=[self.seed, cell.repeat + 1, round(100 * rho)],  # the same for all servers
        )
        outcomes = offer(url, plan, self.images, server.dialect, patience=PATIENCE * limit / 1e3)
        self._settle(url, server)
        return summary(outcomes, plan.seconds)

    def _settle(self, url: str, server: Server) -> None:
        """Wait until what was given up is worked off or dropped, so that the next cell finds an idle server.

        All of them queue in order, so an answer of any kind says that nothing is before it.
        """
        connection = _connection(url)
        _status(connection, server.alone.ask(self.images[0][1], inf))
        connection.close()
        time.sleep(SETTLE_SECONDS)

    @contextmanager
    def _running(self, server: Server, python: Path, workload: Workload, cell: Cell) -> Iterator[str]:
        with running(server, python, workload, self._log(cell)) as url:
            try:
                yield url
            except (OSError, http.client.HTTPException) as error:
                raise ServerError(
                    f"{server.name} does not answer any more ({error!r}): see {self._log(cell)}"
                ) from error

    def _log(self, cell: Cell) -> Path:
        return self.logs / f"{cell.server}-{cell.networks}-{cell.deadline}-{cell.repeat}.log"


def _connection(url: str) -> http.client.HTTPConnection:
    address = urlsplit(url)
    return http.client.HTTPConnection(address.hostname or "", address.port, timeout=ANSWER_SECONDS)


def _status(connection: http.client.HTTPConnection, ask: Ask) -> int:
    connection.request("POST", ask.path, ask.body, dict(ask.headers))
    response = connection.getresponse()
    response.read()
    return response.status
