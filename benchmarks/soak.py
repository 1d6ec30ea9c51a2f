"""A soak: a server of its own under mixed load, with clients that behave badly, until SIGTERM ends it under load.

    python -m benchmarks.soak --images cifar10/test
    python -m benchmarks.soak --images cifar10/test --minutes 0.5 --flags --max-active 64

All the time: predictions with deadlines in an open loop, ten times as many for some seconds of every minute; readers
that stall, clients that leave mid-stream, uploads that trickle in (`benchmarks.load.rude`). It reports whatever
becomes of the server, and exits with 1 unless

- the server answers to the end;
- every request had exactly one end: an answer or a refusal, for streams one `done` or `error`, and the server counted
  as many ends as there were requests;
- with the load gone, nothing is in flight or waiting within a second, and twice as many requests at once as there are
  slots are all answered in full;
- the memory of the server's processes is flat: a line fitted to its second half grows by no more than a few percent
  (not judged in less than two minutes);
- at SIGTERM under load every request that was taken up before has its answer, and the server ends.

Memory is read from /proc, so this runs on Linux.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.command import add_images, add_output, positive_float, positive_int, run
from benchmarks.exposition import Samples, scraped
from benchmarks.labelled import check_labels, labelled_images
from benchmarks.load.dialects import Predict
from benchmarks.load.flags import add_calibration
from benchmarks.load.generator import offer
from benchmarks.load.outcomes import LOST, Outcome, summary
from benchmarks.load.plan import Knots, constant, draw_plan
from benchmarks.load.remote import FULL, Remote
from benchmarks.load.rude import RudeReport, be_rude
from benchmarks.report import write_report
from benchmarks.served import children, served

PERIOD = 60.0
"""Seconds from one burst to the next."""
QUIET = 1.0
"""Seconds in which the last requests may end."""
GROWTH = 0.03
"""Part of the memory by which its second half may grow, or `GROWTH_BYTES` if that is more."""
GROWTH_BYTES = 4 * 2**20
LAST = 4.0
"""Seconds of the load in the middle of which SIGTERM comes."""
REQUESTS = "hne_requests_total", ""
UNREAD = 0.1
"""Seconds for which a request may lie unread before a server that is not behind."""
RECENT = 5.0
"""Seconds over which it is taken how far behind a server is: one slow answer long before tells nothing."""
MEMORY_SECONDS = 60.0
"""What a second half must last to say anything of the memory: caches and arenas fill first."""
COLUMNS = (
    *("offered", "delivered", "refused", "missed", "lost", "failed", "late", "overrun p99.9 ms", "mean size", "p99 ms"),
    *(
        "memory MiB",
        "memory growth MiB",
        "sent before SIGTERM",
        "unanswered of them",
        "taken up",
        "unanswered of these",
    ),
)


def bursts(rate: float, seconds: float, *, length: float, factor: float = 10.0) -> Knots:
    """A rate that is `factor` times as high for `length` seconds in the middle of every `PERIOD`."""
    knots = [(0.0, rate)]
    for start in np.arange(0, seconds, PERIOD).tolist():
        period = min(PERIOD, seconds - start)
        first, last = start + (period - min(length, period)) / 2, start + (period + min(length, period)) / 2
        knots += [(first, rate), (first, factor * rate), (last, factor * rate), (last, rate)]
    return [*knots, (seconds, rate)]


def resident_bytes(pid: int) -> int:
    """Memory of a process and all its descendants."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
        started = children(pid)
    except (FileNotFoundError, ProcessLookupError):
        return 0  # it ended meanwhile
    return pages * os.sysconf("SC_PAGE_SIZE") + sum(map(resident_bytes, started))


def growth(samples: Sequence[tuple[float, int]]) -> tuple[float, float]:
    """Bytes by which a line fitted to the second half of (seconds, bytes) grows over it, and the mean of that half."""
    times, sizes = np.array(samples[len(samples) // 2 :], np.float64).T
    slope = np.polyfit(times - times[0], sizes, 1)[0]
    return float(slope * (times[-1] - times[0])), float(sizes.mean())


def taken_up_by(instant: float, outcomes: Sequence[Outcome]) -> list[Outcome]:
    """The requests that a server has read by an instant. A client cannot see that, so they are those that were sent as
    long before as the slowest answer of the last `RECENT` seconds took: what a busy server has not read yet is not its
    promise.
    """
    recent = (outcome for outcome in outcomes if instant - RECENT <= outcome.answered <= instant)
    answered = [outcome.answered - outcome.sent for outcome in recent]
    return [outcome for outcome in outcomes if outcome.sent < instant - max([UNREAD, *answered])]


@contextmanager
def sampled(read: Callable[[], int], every: float) -> Iterator[list[tuple[float, int]]]:
    """Samples (seconds, value), taken until the block ends."""
    samples: list[tuple[float, int]] = []
    ended = threading.Event()

    def sample() -> None:
        started = time.monotonic()
        while not ended.wait(every):
            samples.append((time.monotonic() - started, read()))

    thread = threading.Thread(target=sample)
    thread.start()
    try:
        yield samples
    finally:
        ended.set()
        thread.join()


@contextmanager
def rudeness(url: str, images: Sequence[tuple[str, bytes]], *, each: int, seed: int) -> Iterator[RudeReport]:
    """Rude clients on a thread of their own; the block's end waits for their last requests."""
    report, ended = RudeReport(), threading.Event()
    clients = be_rude(url, images, report, ended.is_set, each=each, seed=seed)
    thread = threading.Thread(target=asyncio.run, args=(clients,))
    thread.start()
    try:
        yield report
    finally:
        ended.set()
        thread.join()


class Soak:
    """One server under load, and what was wrong with it."""

    def __init__(
        self, url: str, process: subprocess.Popen[str], images: Sequence[tuple[str, bytes]], options: argparse.Namespace
    ) -> None:
        self.violations: list[str] = []
        self._url, self._process, self._images, self._options = url, process, images, options
        self._remote = Remote(url, images, Predict(options="top_k=1"))
        self.card = self._remote.card
        check_labels(images, self.card["class_names"])
        self.rate = options.rho * self._remote.capacity(options.calibration)
        self._deadline = options.slack * self._remote.full_latency(options.calibration)

    def load(self) -> dict[str, Any]:
        """The mixed load; what its clients and the server saw."""
        options, seconds = self._options, 60 * self._options.minutes
        counted = (self._metrics("before the load") or {}).get(REQUESTS, 0.0)
        plan = draw_plan(
            bursts(self.rate, seconds, length=options.burst),
            deadlines=[self._deadline],
            images=len(self._images),
            seed=options.seed,
        )
        with (
            sampled(lambda: resident_bytes(self._process.pid), min(1.0, seconds / 50)) as memory,
            rudeness(self._url, self._images, each=options.rude, seed=options.seed) as rude,
        ):
            outcomes = offer(self._url, plan, self._images, Predict(options="top_k=1"))
        self._check_ends(outcomes, rude, counted)
        grown, size = growth(memory)
        if grown > max(GROWTH * size, GROWTH_BYTES) and seconds / 2 >= MEMORY_SECONDS:
            self.violations.append(
                f"memory grew by {grown / 2**20:.1f} MiB of {size / 2**20:.1f} MiB in the second half"
            )
        return {
            **summary(outcomes, seconds),
            "rude": dict(rude.requests),
            "rude statuses": dict(rude.statuses),
            "memory MiB": size / 2**20,
            "memory growth MiB": grown / 2**20,
        }

    def quiet(self) -> None:
        """With the load gone, nothing may be left, and every slot must be free."""
        time.sleep(QUIET)
        if (metrics := self._metrics("a second after the load")) is not None:
            for name in ("hne_inflight_requests", "hne_queue_depth"):
                if (left := metrics.get((name, ""))) != 0:
                    self.violations.append(f"{name} is {left} a second after the load")
        slots = int(self.card["limits"]["max_active"])
        together = draw_plan(constant(2000 * slots, 1e-3), deadlines=[np.inf], images=len(self._images), seed=0)
        answers = offer(self._url, together, self._images, FULL, patience=60)
        full = sum(outcome.ensemble_size == self.card["table"][-1]["ensemble_size"] for outcome in answers)
        if full < len(answers):
            self.violations.append(f"of {len(answers)} requests at once only {full} were answered in full")

    def terminate(self) -> dict[str, Any]:
        """SIGTERM in the middle of a load of twice the capacity."""
        rate = 2 * self.rate / self._options.rho
        plan = draw_plan(constant(rate, LAST), deadlines=[self._deadline], images=len(self._images), seed=1)
        start = time.perf_counter() + 1
        timer = threading.Timer(1 + LAST / 2, self._process.send_signal, [signal.SIGTERM])
        timer.start()
        outcomes = offer(self._url, plan, self._images, Predict(options="top_k=1"), start=start)
        timer.join()
        taken_up = taken_up_by(LAST / 2, outcomes)
        if lost := sum(outcome.status == LOST for outcome in taken_up):
            self.violations.append(f"{lost} of {len(taken_up)} requests taken up before SIGTERM have no answer")
        try:
            status = self._process.wait(60)
        except subprocess.TimeoutExpired:
            self.violations.append("the server does not end")
            self._process.kill()
            status = None
        if status not in (0, None):
            self.violations.append(f"the server ended with status {status}")
        sent = [outcome for outcome in outcomes if outcome.sent < LAST / 2]
        return {
            "sent before SIGTERM": len(sent),
            "unanswered of them": sum(outcome.status == LOST for outcome in sent),
            "taken up": len(taken_up),
            "unanswered of these": lost,
        }

    def _check_ends(self, outcomes: Sequence[Outcome], rude: RudeReport, counted: float) -> None:
        if lost := sum(outcome.status == LOST for outcome in outcomes):
            self.violations.append(f"{lost} of {len(outcomes)} predictions have no end")
        if failed := summary(outcomes, 1)["failed"]:
            self.violations.append(f"{failed} predictions failed with other statuses than 503 and 504")
        self.violations += rude.faults[:20]
        time.sleep(QUIET)
        requests = len(outcomes) + rude.requests.total()
        if (metrics := self._metrics("after the load")) is not None:
            ends = metrics.get(REQUESTS, 0.0) - counted
            if ends != requests:
                self.violations.append(f"the server counted {ends:.0f} ends of {requests} requests")

    def _metrics(self, when: str) -> Samples | None:
        """None, and a violation, if the server does not answer."""
        try:
            return scraped(self._url)
        except (OSError, http.client.HTTPException, SystemExit) as error:  # it is gone, or without its engine
            self.violations.append(f"the server does not tell its metrics {when}: {error!r}")
            return None


def conduct(soak: Soak, options: argparse.Namespace) -> None:
    """All of it, and its report, whatever becomes of the server."""
    row = soak.load()
    soak.quiet()
    row |= soak.terminate()
    how = {name: getattr(options, name) for name in ("minutes", "rho", "slack", "burst", "rude", "seed", "flags")}
    write_report(options.output, "soak", soak.card, [row], columns=COLUMNS, **how, violations=soak.violations)
    for violation in soak.violations:
        print(f"VIOLATION: {violation}", file=sys.stderr)


def main(argv: Sequence[str] | None = None) -> None:
    """Run, report, and exit with 1 on a violation."""
    options = options_of(argv)
    images = labelled_images(options.images, options.count, options.seed)
    with served(options.model, *options.flags) as (url, process):
        soak = Soak(url, process, images, options)
        conduct(soak, options)
    sys.exit(1 if soak.violations else 0)


def options_of(argv: Sequence[str] | None) -> argparse.Namespace:
    """The flags."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_images(parser, 1000)
    parser.add_argument("--model", type=Path, help="package to serve; unset, the shipped one")
    add_calibration(parser)
    add = parser.add_argument
    add("--minutes", type=positive_float, default=10)
    add("--rho", type=positive_float, default=0.4, help="load between bursts, over the capacity over HTTP")
    add("--slack", type=positive_float, default=3, help="deadline over the full ensemble's latency over HTTP")
    add("--burst", type=positive_float, default=5, help="seconds of ten times the load in every minute")
    add("--rude", type=positive_int, default=3, help="rude clients of every kind")
    add_output(parser, "soak.json")
    add("--flags", nargs=argparse.REMAINDER, default=[], help="of hne-serve; must come last")
    return parser.parse_args(argv)


if __name__ == "__main__":
    run(main)
