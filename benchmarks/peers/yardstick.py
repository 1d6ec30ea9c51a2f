"""The yardstick: what the machine can do without any server, by which loads, deadlines and batches are set for all."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import cycle, islice, takewhile
from statistics import median

from benchmarks.peers.workload import Classifier, Workload

__all__ = ["Yardstick", "measured", "thread_counts", "work_ms"]

BATCHES = (1, 2, 4, 8, 16, 32)
ROUNDS = 15


@dataclass(frozen=True, slots=True, kw_only=True)
class Yardstick:
    """Milliseconds in one process, on one thread or on all, whichever is faster."""

    full_ms: dict[str, float]
    """A batch of the full ensemble, by its size."""
    single_ms: dict[str, float]
    """A batch of the single network, by its size."""

    @property
    def capacity(self) -> float:
        """Images per second of the full ensemble, at the best batch size: rho 1."""
        return max(int(size) / milliseconds for size, milliseconds in self.full_ms.items()) * 1e3

    def times(self, full: bool) -> dict[int, float]:
        """Milliseconds by batch size."""
        return {int(size): milliseconds for size, milliseconds in (self.full_ms if full else self.single_ms).items()}

    def max_batch(self, full: bool, deadline_ms: float) -> int:
        """The largest batch of which two fit into the deadline: a request waits for one, then for its own."""
        return max(takewhile(lambda size: 2 * self.times(full)[size] <= deadline_ms, BATCHES), default=1)


def measured(full: Workload, single: Workload, images: Sequence[bytes]) -> Yardstick:
    """Measure both graphs; takes some seconds."""
    full_ms, single_ms = (
        [_by_batch(Classifier(replace(workload, threads=threads)), images) for threads in thread_counts(workload)]
        for workload in (full, single)
    )
    return Yardstick(full_ms=_least(full_ms), single_ms=_least(single_ms))


def thread_counts(workload: Workload) -> list[int]:
    """How many threads may share a batch: one, or all."""
    return sorted({1, workload.cores})


def work_ms(single: Workload, images: Sequence[bytes]) -> float:
    """Milliseconds of decoding an image and of the single network: what a request of the overhead measurement works."""
    network, upcoming = Classifier(single), cycle(images)

    def request() -> None:
        network.predict([network.read(next(upcoming))])

    return _median_ms(request, 10 * ROUNDS)


def _least(times: Sequence[dict[str, float]]) -> dict[str, float]:
    return {size: min(found[size] for found in times) for size in times[0]}


def _by_batch(classifier: Classifier, images: Sequence[bytes]) -> dict[str, float]:
    inputs = [classifier.read(image) for image in islice(cycle(images), BATCHES[-1])]
    return {str(size): _median_ms(partial(classifier.predict, inputs[:size]), ROUNDS) for size in BATCHES}


def _median_ms(work: Callable[[], object], rounds: int) -> float:
    work()
    work()
    times = []
    for _ in range(rounds):
        started = time.perf_counter()
        work()
        times.append(1e3 * (time.perf_counter() - started))
    return median(times)
