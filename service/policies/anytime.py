"""The anytime policy: first answers first, and never more at a time than a straggler could spoil."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from math import inf
from operator import itemgetter

from model_core.package import EnsembleFigures
from model_core.tree import Segment
from service.policies.whole import efficient_batch
from service.scheduler import Decision, Entry, Situation, largest_batch

__all__ = ["Anytime", "step_gains"]

FAIR_SHARE = 16
"""One batch in so many belongs to the eldest request."""
MARGIN = 1.0
"""How many times over, beside the measured straggler factor, a wide segment has to fit the tightest slack."""
PAYS = 1.1
"""How many times a wide first segment's seconds its single steps must take; it cannot be interrupted between them."""


class Anytime:
    """Every decision is the first of these that finds a batch:

    1. every `FAIR_SHARE`-th: with the eldest request. Urgent ones end soon, so it is the patient ones that grow old,
       and this bounds their wait, whatever else arrives: in its turn each needs at most N such steps. Age and not a
       missing deadline counts, because a service gives every request one, however far away.
    2. those who wait for a first leaf, while slots are free. Where a batch serves no more of them per second than one
       after the other does: one leaf for the most urgent. Otherwise the largest set that can still get one together, in
       the widest segment 0..w that costs less than its steps, and whose time, with as much again as a first leaf takes
       for whoever comes meanwhile, fits the tightest slack kappa times over.
    3. while some wait and no slot is free: the deepest step, because it frees slots soonest.
    4. the segment and batch with the most expected accuracy gained per second; wider than one leaf only if its time,
       kappa times over, fits the tightest slack.

    kappa = `margin` times the measured straggler factor `Costs.straggle`. What it keeps back is not lost: a request
    with a leaf spends it on refinements, a step at a time. Without a deadline to fit, a segment is as wide as
    makes a leaf cheapest.
    """

    def __init__(self, table: Sequence[EnsembleFigures], *, margin: float = MARGIN) -> None:
        self._worth = tuple(accumulate(step_gains(table), initial=0.0))
        self._margin = margin

    def __call__(self, situation: Situation) -> Decision | None:
        if situation.steps_run % FAIR_SHARE == 0 and (decision := self._for_the_eldest(situation)):
            return decision
        waiting = situation.queues[0]
        if waiting and situation.free_slots and (decision := self._first_leaves(situation)):
            return decision
        started = [size for size in range(len(situation.segments) - 1, 0, -1) if situation.queues[size]]
        if waiting and not situation.free_slots:
            return next((decision for size in started if (decision := _step(situation, size))), None)
        best, best_rate = None, -inf
        for size in started:
            for decision in self._refinements(situation, size):
                segment, batch = decision.segment, len(decision.entries)
                gain = batch * (self._worth[segment.stop] - self._worth[segment.start])
                rate = gain / situation.costs.expected(segment, batch)
                if rate > best_rate:
                    best, best_rate = decision, rate
        return best

    def _first_leaves(self, situation: Situation) -> Decision | None:
        savable = _step(situation, 0)
        if savable is None:
            return None
        urgent = efficient_batch(situation, 1, 1.0)
        if len(urgent) < len(savable.entries):
            return Decision(segment=savable.segment, entries=urgent)
        if len(situation.segments[0]) == 1:
            return savable
        return Decision(segment=self._widest(situation, savable.entries), entries=savable.entries)

    def _widest(self, situation: Situation, entries: Sequence[Entry]) -> Segment:
        """The widest segment from size 0 that pays and fits everyone's slack and limit."""
        first, *wider = situation.segments[0]
        limit = min(entry.limit for entry in entries)
        slack = (entries[0].deadline - situation.now) / self._kappa(situation)
        costs, batch = situation.costs, len(entries)
        steps = list(accumulate(costs.expected(leaves[0], batch) for leaves in situation.segments))
        fitting = [first]
        for segment in wider:
            seconds = costs.expected(segment, batch)
            if segment.stop <= limit and seconds + steps[0] <= slack and PAYS * seconds <= steps[segment.stop - 1]:
                fitting.append(segment)
        if slack < inf:
            return fitting[-1]
        return min(fitting, key=lambda segment: costs.expected(segment, batch) / segment.width)

    def _refinements(self, situation: Situation, size: int) -> list[Decision]:
        """What could be run next for those at an ensemble size."""
        wider = situation.segments[size][1:]
        decision = _step(situation, size)
        decisions = [decision] if decision else []
        queue, kappa, costs = situation.queues[size], self._kappa(situation), situation.costs
        for segment in wider:
            entries = largest_batch(
                queue,
                lambda batch, segment=segment: kappa * costs.expected(segment, batch),  # type: ignore[misc]
                situation.now,
                situation.max_batch,
            )
            if entries := [entry for entry in entries if entry.limit >= segment.stop]:
                decisions.append(Decision(segment=segment, entries=entries))
        return decisions

    def _kappa(self, situation: Situation) -> float:
        return self._margin * situation.costs.straggle

    def _for_the_eldest(self, situation: Situation) -> Decision | None:
        able = [
            (min(queue, key=_admission), size)
            for size, queue in enumerate(situation.queues)
            if queue and (size or situation.free_slots)
        ]
        if not able:
            return None
        eldest, size = min(able, key=lambda candidate: _admission(candidate[0]))
        return _step(situation, size, member=eldest)


_admission = itemgetter(Entry._fields.index("number"))


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


def _step(situation: Situation, size: int, *, member: Entry | None = None) -> Decision | None:
    """The next leaf for the largest batch at an ensemble size that makes its deadlines, and holds `member`."""
    limit = situation.max_batch if size else min(situation.max_batch, situation.free_slots)
    segment, costs = Segment(size), situation.costs
    entries = largest_batch(
        situation.queues[size], lambda batch: costs.expected(segment, batch), situation.now, limit, member=member
    )
    return Decision(segment=segment, entries=entries) if entries else None
