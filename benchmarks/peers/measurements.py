"""Measuring one server: what a request costs beside its work, and goodput under open-loop load."""

from __future__ import annotations

import http.client
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from math import inf
from pathlib import Path
from statistics import median
from typing import Any
from urllib.parse import urlsplit

from benchmarks.load.dialects import Ask
from benchmarks.load.generator import offer
from benchmarks.load.outcomes import summary
from benchmarks.load.plan import constant, draw_plan
from benchmarks.peers.record import Cell, Record
from benchmarks.peers.servers import Server, ServerError, running
from benchmarks.peers.workload import Workload
from benchmarks.peers.yardstick import Yardstick, work_ms

__all__ = ["Bench", "deadline_ms"]

ALONE = 300
"""Requests of the overhead measurement, one at a time; a third of them warms up."""
RELAXED_MS = 10_000.0
"""The deadline of the overhead measurement: nothing is to be given up."""
WAIT_SHARE = 0.1
"""Share of the deadline that a batch may wait for more requests."""
WARM_UP_RHO, WARM_UP_SECONDS = 0.5, 3.0
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
        """One request at a time, the single network, no batching; what that takes without a server, just before."""
        cell = Cell(server=server.name, networks=1, deadline="none", rho=0.0, repeat=repeat)
        if self.record.find(cell) is not None:
            return
        work = work_ms(base, [image for _, image in self.images])
        workload = replace(base, deadline_ms=RELAXED_MS, queue_ms=RELAXED_MS, max_batch=1, batch_wait_ms=0.0)
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
        with self._running(server, python, workload, missing[0]) as url:
            self._offer(url, server, missing[0], WARM_UP_RHO, limit, WARM_UP_SECONDS)
            for cell in missing:
                figures = self._offer(url, server, cell, cell.rho, limit, self.seconds)
                settings = {"max batch": workload.max_batch, "deadline ms": limit}
                self.record.add(cell, settings | figures)
                print(
                    f"{cell.server:>9} of {cell.networks:>2}, {deadline}, rho {cell.rho}: {figures['goodput']:.1%}",
                    flush=True,
                )

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
            seed=[self.seed, cell.repeat, round(100 * rho)],  # the same for all servers
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
