"""The engine's loop on virtual time: its ledger, queues, profile and policy. Only the computation takes no time."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import inf

import numpy as np
from numpy.typing import NDArray

from benchmarks.simulation.answers import MISSED, NOTHING, refinement, unheard
from benchmarks.simulation.load import Load
from benchmarks.simulation.machine import Faults, Machine
from model_core.tree import Segment
from service.engine import PAUSE
from service.ledger import Ledger
from service.request import Budget, StopReason
from service.scheduler import Policy, by_start, expired
from service.slots import SlotPool
from service.state import EngineSettings

__all__ = ["Run", "simulate"]

DRAWS = 4096
"""Fault factors drawn at a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """What became of the requests."""

    sizes: NDArray[np.int64]
    """(R,) the ensemble size of each answer at its deadline; 0 for none."""
    batches: int
    """Segments that ran."""
    busy: float
    """Seconds that they took."""
    straggle: float
    """The straggler factor that the profile held at the end."""


def simulate(
    machine: Machine,
    load: Load,
    policy: Policy,
    *,
    flops: Sequence[int],
    limits: EngineSettings,
    faults: Faults,
    random: np.random.Generator,
) -> Run:
    """Serve a load. An answer is what its request holds at its deadline: a segment that ends later adds nothing.

    `flops` are those of ensemble sizes 0..N. Only the slots and the waiting places of `limits` matter, the largest
    batch is the machine's.
    """
    tree, profile = machine.tree, machine.profile()
    pool = SlotPool(limits.max_active, classes=0)
    ledger = Ledger(flops, pool, profile)
    segments = by_start(machine.seconds, tree.leaves)
    arrivals, deadlines = load.arrivals.tolist(), load.deadlines.tolist()
    sizes = [0] * len(arrivals)
    offered: list[int] = []  # the request behind each ticket
    factors: list[float] = []
    now, arrived, batches, busy = 0.0, 0, 0, 0.0

    while True:
        while arrived < len(arrivals) and arrivals[arrived] <= now:
            if ledger.queues.waiting < limits.max_waiting:
                ledger.admit(NOTHING, Budget(deadline=deadlines[arrived]), unheard, arrivals[arrived])
                offered.append(arrived)
            arrived += 1
        for entry in expired(ledger.queues, profile, now):
            ledger.end(ledger.of(entry), StopReason.DEADLINE, MISSED, now)
        situation = ledger.situation(now, segments=segments, max_batch=machine.max_batch, steps_run=batches)
        decision = policy(situation) if ledger.queues else None
        if decision is None:
            following = arrivals[arrived] if arrived < len(arrivals) else inf
            now = min(following, now + PAUSE) if ledger.queues else following
            if now == inf:
                break
            continue
        batch = ledger.begin(decision, now)
        count, segment = len(batch.requests), batch.segment
        factors = factors or faults.factors(random, DRAWS)
        seconds = machine.seconds[segment][count] * factors.pop()
        now += seconds
        busy += seconds
        batches += 1
        profile.observe(segment, count, seconds)
        next_end = now + profile.expected(Segment(segment.stop), 1) if segment.stop < tree.leaves else now
        for _, request in ledger.release(batch):
            if now <= request.entry.deadline:
                sizes[offered[request.ticket.number]] = segment.stop
            ledger.advance(request, refinement(request, segment.stop, flops=flops, now=now, next_end=next_end))
    return Run(sizes=np.asarray(sizes), batches=batches, busy=busy, straggle=profile.straggle)
