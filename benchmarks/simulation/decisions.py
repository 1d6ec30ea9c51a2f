"""Decisions: how long a policy takes on the engine's real ledger and queues, while the time it sees is virtual."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from benchmarks.simulation.answers import MISSED, NOTHING, refinement, unheard
from model_core.tree import Segment
from service.engine import PAUSE
from service.ledger import Ledger
from service.profile import Profile
from service.request import Budget, StopReason
from service.scheduler import Policy, by_start, expired
from service.slots import SlotPool

__all__ = ["Timed", "timed_decisions"]

SLACKS = (0.3, 3.0)
"""Deadlines are drawn between these, times what it takes to give all active requests every leaf."""


class Timed(NamedTuple):
    """What stands between two batches."""

    deciding: float
    """Seconds that it takes to tell who can get no further in time, and what to run."""
    ended: int
    """Requests that get no further."""
    ending: float
    """Seconds that it takes to end these."""


def timed_decisions(
    profile: Profile,
    segments: Sequence[Segment],
    policy: Policy,
    *,
    flops: Sequence[int],
    active: int,
    max_batch: int,
    count: int,
    seed: int,
) -> list[Timed]:
    """Time `count` decisions while `active` requests are in the ledger; `flops` are those of sizes 0..N.

    Batches take what the profile expects; who is answered is replaced at once. Decisions until the requests of the
    start are gone, who all begin alike, are not timed.
    """
    leaves = len(flops) - 1
    ledger = Ledger(flops, SlotPool(active, classes=0), profile)
    by_size = by_start(segments, leaves)
    random = np.random.default_rng(seed)
    everyone = sum(profile.expected(steps[0], max_batch) for steps in by_size) * active / max_batch
    now, steps_run, timed = 0.0, 0, list[Timed]()
    while len(timed) < count:
        while len(ledger) < active:
            ledger.admit(NOTHING, Budget(deadline=now + everyone * random.uniform(*SLACKS)), unheard, now)
        started = time.perf_counter()
        late = expired(ledger.queues, profile, now)
        told = time.perf_counter()
        for entry in late:
            ledger.end(ledger.of(entry), StopReason.DEADLINE, MISSED, now)
        ended = time.perf_counter()
        decision = policy(ledger.situation(now, segments=by_size, max_batch=max_batch, steps_run=steps_run))
        if ledger.admitted >= 2 * active:
            deciding = time.perf_counter() - ended + told - started
            timed.append(Timed(deciding, len(late), ended - told))
        if decision is None:
            now += PAUSE
            continue
        batch = ledger.begin(decision, now)
        segment = batch.segment
        now += profile.expected(segment, len(batch.requests))
        steps_run += 1
        next_end = now + profile.expected(Segment(segment.stop), 1) if segment.stop < leaves else now
        for _, request in ledger.release(batch):
            ledger.advance(request, refinement(request, segment.stop, flops=flops, now=now, next_end=next_end))
    return timed
