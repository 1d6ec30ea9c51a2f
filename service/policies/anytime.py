"""The anytime policy: first answers first, then the step that gains most expected accuracy per second."""

from __future__ import annotations

from collections.abc import Sequence

from model_core.package import EnsembleFigures
from model_core.tree import Segment
from service.scheduler import Decision, Entry, Situation, largest_batch

__all__ = ["Anytime", "step_gains"]

FAIR_SHARE = 16
"""One step in so many belongs to the eldest request."""


class Anytime:
    """Every decision is the first of these that finds a batch, always the largest that makes its deadlines:

    1. every `FAIR_SHARE`-th step: with the eldest request. Urgent ones end soon, so it is the patient ones that grow
       old, and this bounds their wait, whatever else arrives: in its turn each needs at most N such steps. Age and not
       a missing deadline counts, because a service gives every request one, however far away.
    2. step 0 for those who wait, while slots are free.
    3. while some wait and no slot is free: the deepest step, because it frees slots soonest.
    4. the step with the most expected accuracy gained per second, over the whole batch.
    """

    def __init__(self, table: Sequence[EnsembleFigures]) -> None:
        self._gains = step_gains(table)

    def __call__(self, situation: Situation) -> Decision | None:
        if situation.steps_run % FAIR_SHARE == 0 and (decision := self._for_the_eldest(situation)):
            return decision
        if situation.queues[0] and situation.free_slots and (decision := _decide(situation, 0)):
            return decision
        decisions = [
            decision
            for size, queue in enumerate(situation.queues)
            if size and queue and (decision := _decide(situation, size))
        ]
        if situation.queues[0] and not situation.free_slots:
            return decisions[-1] if decisions else None
        return max(decisions, key=lambda decision: self._gain_rate(situation, decision), default=None)

    def _gain_rate(self, situation: Situation, decision: Decision) -> float:
        batch = len(decision.entries)
        return batch * self._gains[decision.segment.start] / situation.costs.expected(decision.segment, batch)

    def _for_the_eldest(self, situation: Situation) -> Decision | None:
        able = [
            (min(queue, key=_admission), size)
            for size, queue in enumerate(situation.queues)
            if queue and (size or situation.free_slots)
        ]
        if not able:
            return None
        eldest, size = min(able, key=lambda candidate: _admission(candidate[0]))
        return _decide(situation, size, member=eldest)


def _admission(entry: Entry) -> int:
    return entry.number


def step_gains(table: Sequence[EnsembleFigures]) -> tuple[float, ...]:
    """What each step 0..N-1 is worth in expected accuracy, from the manifest's table.

    Measured accuracies are noisy and need not rise with every leaf, so a step is worth its cost times the best slope
    (accuracy per FLOP) of any continuation from there, and never less than nothing. No answer is never correct.
    """
    flops = (0, *(row.flops for row in table))
    accuracy = (0.0, *(row.accuracy for row in table))

    def best_slope(size: int) -> float:
        further = range(size + 1, len(flops))
        return max((accuracy[other] - accuracy[size]) / max(flops[other] - flops[size], 1) for other in further)

    return tuple(max(best_slope(size), 0.0) * (flops[size + 1] - flops[size]) for size in range(len(table)))


def _decide(situation: Situation, size: int, *, member: Entry | None = None) -> Decision | None:
    limit = situation.max_batch if size else min(situation.max_batch, situation.free_slots)
    segment = Segment(size)
    entries = largest_batch(situation.queues[size], segment, situation.costs, situation.now, limit, member=member)
    return Decision(segment=segment, entries=entries) if entries else None
