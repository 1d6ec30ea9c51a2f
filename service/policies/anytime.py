"""The anytime policy: first answers first, and never more at a time than a straggler could spoil."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import accumulate
from math import inf
from operator import itemgetter

from model_core.package import EnsembleFigures
from model_core.tree import Segment
from service.policies.crowd import limited, patient_from
from service.policies.whole import WORTHWHILE
from service.scheduler import Costs, Decision, Entry, Situation, batch_sizes, largest_batch

__all__ = ["Anytime", "step_gains"]

FAIR_SHARE = 16
"""One batch in so many belongs to the eldest patient request."""
MARGIN = 1.0
"""How many times over, beside the measured straggler factor, a wide segment has to fit the tightest slack."""
CONFIDENT = 0.9
"""The calibrated top probability of an answer that further leaves hardly change, chosen on the shipped model: stopping
there, it is as accurate as with all of its 16 networks (89.42 and 89.40 %), with 4.8 on average."""
BURST = 2.0
"""How many times as many as their rate tells are thought to come while a batch runs: they come in bursts."""
UNLIKELY = 0.05
"""So few are thought to come while a batch runs that it need not be over in time for them."""
LEAST = 1e-6
"""Accuracy that a leaf is taken to bring at least: nothing, to whoever needs the machine, but what nobody else needs is
not withheld, however little it brings, from who would wait for it until the deadline."""
PAYS = 2.0
"""How many times the seconds that a wide first segment takes beyond a first leaf its single steps must take: between
these newcomers get their first leaf, and who is sure stops."""


class Anytime:
    """Every decision is the first of these that finds a batch:

    1. every `FAIR_SHARE`-th: with the eldest patient request. Urgent ones end soon, so it is the patient ones that grow
       old, and this bounds their wait, whatever else arrives: in its turn each needs at most N such steps. A missing
       deadline is not asked for, because a service gives every request one, however far away.
    2. those of the highest priority who wait for a first leaf, while slots are free. Where all of them together would
       be served no faster than in smaller batches: one leaf for the most urgent, so many as are worth it. Otherwise the
       largest set that can still get one together, in the widest segment 0..w that saves enough (`PAYS`), and
       whose time fits the tightest slack kappa times over. If those who wait on, and those who come meanwhile, then
       take the machine until the last of their deadlines, it is their last step; while requests are lost, and
       where keeping what further leaves start from costs time, they get no more of these than such a crowd leaves time
       for (`service.policies.crowd`).
    3. while some wait and no slot is free: the deepest step, because it frees slots soonest.
    4. the segment and batch with the most expected accuracy gained per second, less what it is expected to cost those
       who come meanwhile, if it gains anything; wider than one leaf only if its time, kappa times over, fits the
       tightest slack.

    Wide segments and refinements leave whoever comes meanwhile the time for a first leaf, as urgent as requests have
    lately come, unless no refinement at all is short enough; wide ones leave it to those who wait on, too. A segment
    with a request that wants every size is one leaf wide.

    While requests are refused for want of a waiting place everybody, however patient, gets no more leaves than such a
    crowd leaves time for: who goes on holds a slot that others need for a first leaf.

    While others wait for a first leaf, who is `CONFIDENT` stops, unless the request says how sure is enough.

    kappa = `margin` times the measured straggler factor `Costs.straggle`. What it keeps back is not lost: a request
    with a leaf spends it on refinements, a step at a time. Without a deadline to fit, a segment is as wide as
    makes a leaf cheapest.
    """

    def __init__(self, table: Sequence[EnsembleFigures], *, margin: float = MARGIN) -> None:
        self._worth = tuple(accumulate(step_gains(table), initial=0.0))
        self._margin = margin

    def __call__(self, situation: Situation) -> Decision | None:
        decision = self._choice(situation)
        if decision is None or not _others_wait(situation, decision):
            return decision
        return replace(decision, enough=CONFIDENT)

    def _choice(self, situation: Situation) -> Decision | None:
        if situation.steps_run % FAIR_SHARE == 0 and (decision := self._for_the_eldest(situation)):
            return limited(situation, decision) if situation.refused else decision
        waiting = situation.queues[0]
        if waiting and situation.free_slots and (decision := self._first_leaves(situation)):
            return decision
        started = [size for size in range(len(situation.segments) - 1, 0, -1) if situation.queues[size]]
        if waiting and not situation.free_slots:
            decision = next((decision for size in started if (decision := _step(situation, size))), None)
            return limited(situation, decision) if decision and situation.refused else decision
        longest = self._longest(situation)
        return self._best_refinement(situation, started, longest) or self._best_refinement(situation, started)

    def _first_leaves(self, situation: Situation) -> Decision | None:
        savable = _step(situation, 0)
        if savable is None:
            return None
        worthwhile = _worthwhile_batch(situation, len(savable.entries))
        if worthwhile < len(savable.entries):
            decision = _step(situation, 0, limit=worthwhile)
            return decision and limited(situation, decision)
        decision = Decision(segment=self._widest(situation, savable.entries), entries=savable.entries)
        return limited(situation, decision)

    def _widest(self, situation: Situation, entries: Sequence[Entry]) -> Segment:
        """The widest segment from size 0 that pays and fits everyone's slack and limit.

        Of patient ones no wider than those have come who wait for a refinement: served as a whole at once, a stream of
        newcomers would leave them behind.
        """
        first, *wider = situation.segments[0]
        most = min(min(map(_limit, entries)), min(map(_widest_of, entries)))
        if most <= first.width:
            return first
        if entries[0].deadline > patient_from(situation):
            most = next((size for size in range(1, min(most, len(situation.segments))) if situation.queues[size]), most)
        allowed = [segment for segment in wider if segment.stop <= most]
        if not allowed:
            return first
        slack = (entries[0].deadline - situation.now) / self._kappa(situation)
        costs, batch = situation.costs, len(entries)
        longest = min(slack, self._longest(situation), self._spared(situation, entries))
        steps = list(accumulate(costs.expected(leaves[0], batch) for leaves in situation.segments))
        fitting, price = [first], self._price(situation)
        for segment in allowed:
            seconds, gain = costs.expected(segment, batch), self._worth[segment.stop] - self._worth[1]
            if price * (seconds**2 - steps[0] ** 2) > batch * gain:
                break
            if seconds <= longest and PAYS * (seconds - steps[0]) <= steps[segment.stop - 1] - steps[0]:
                fitting.append(segment)
        if slack < inf:
            return fitting[-1]
        return min(fitting, key=lambda segment: costs.expected(segment, batch) / segment.width)

    def _best_refinement(self, situation: Situation, started: Sequence[int], longest: float = inf) -> Decision | None:
        costs, kappa, price = situation.costs, self._kappa(situation), self._price(situation)
        best, best_rate = None, 0.0
        for size in started:
            queue = situation.queues[size]
            for segment in situation.segments[size]:
                gain = self._worth[segment.stop] - self._worth[size]
                if gain <= best_rate * costs.cheapest(segment):
                    continue  # at no batch size does it gain more per second
                seconds = partial(costs.expected, segment)
                whole = _most(seconds, longest, min(len(queue), situation.max_batch))
                if not whole:
                    break  # nor do wider ones fit
                if whole * gain <= best_rate * seconds(whole):
                    continue  # nor would a smaller batch gain more per second
                if segment.width == 1:
                    entries = largest_batch(queue, seconds, situation.now, whole)
                else:
                    fitting = largest_batch(queue, partial(_times, kappa, costs, segment), situation.now, whole)
                    entries = [
                        entry for entry in fitting if entry.limit >= segment.stop and entry.widest >= segment.width
                    ]
                for batch in batch_sizes(len(entries)) if price else (len(entries),):
                    if batch and (rate := batch * gain / seconds(batch) - price * seconds(batch)) > best_rate:
                        best, best_rate = Decision(segment=segment, entries=entries[:batch]), rate
        return best

    def _longest(self, situation: Situation) -> float:
        """How many seconds a batch may be expected to take, if who comes meanwhile shall get a first leaf in time.

        Who comes as a batch of d seconds begins may wait kappa d, and then shares a batch with the n = `BURST` lambda d
        that have come since. With c(n) seconds for the first leaf of n, taken as linear, kappa d + c(1 + n) has to fit
        the slack with which requests come. More than the largest batch they are not. Nobody is waited for where the
        rate is known and hardly anybody comes, lambda d < `UNLIKELY`, or where requests come so urgent that the
        shortest of all steps would be too long.
        """
        costs, kappa, most = situation.costs, self._kappa(situation), situation.max_batch
        alone, full = costs.expected(Segment(0), 1), costs.expected(Segment(0), most)
        each = max(full - alone, 0.0) / max(most - 1, 1)
        rate = situation.arrival_rate
        lasting = (situation.arrival_slack - alone) / (kappa + BURST * rate * each)
        longest = max(lasting, (situation.arrival_slack - full) / kappa)
        shortest = costs.expected(situation.segments[-1][0], 1)  # the last leaf shares most with those before it
        return inf if longest < shortest else max(longest, UNLIKELY / rate if rate else 0.0)

    def _spared(self, situation: Situation, entries: Sequence[Entry]) -> float:
        """How many seconds first leaves may be expected to take, if the next who waits shall get one in time then.

        With all who wait on in one batch, as far as one holds them; of those of lower priority none is asked.
        """
        queue, left = situation.queues[0], situation.queues.waiting - len(entries)
        following = bisect_right(queue, entries[-1])
        if following == len(queue):
            return inf
        theirs = situation.costs.expected(Segment(0), min(left, situation.max_batch))
        return (queue[following].deadline - situation.now - theirs) / self._kappa(situation)

    def _price(self, situation: Situation) -> float:
        """What d seconds that nobody can interrupt cost in expected right answers: so much times d^2.

        Who comes meanwhile begins a busy period later by lambda d^2 / 2 seconds on average. The share that was lost
        lately is taken as the probability that not everybody gets a first leaf in it. Then each of its seconds is worth
        the first leaves that take one, as far as it is the machine that lacks: at the load of first leaves, squared.
        """
        rate, each = situation.arrival_rate, situation.costs.cheapest(Segment(0))
        return situation.lost * rate / 2 * self._worth[1] * min(rate * each, 1.0) ** 2 / each

    def _kappa(self, situation: Situation) -> float:
        return self._margin * situation.costs.straggle

    def _for_the_eldest(self, situation: Situation) -> Decision | None:
        far = Entry(patient_from(situation), -1)
        able = [
            (min(queue[first:], key=_admission), size, queue)
            for size, queue in situation.queues.everyone()
            if (first := bisect_left(queue, far)) < len(queue) and (size or situation.free_slots)
        ]
        if not able:
            return None
        eldest, size, queue = min(able, key=lambda candidate: _admission(candidate[0]))
        seconds, most = partial(situation.costs.expected, Segment(size)), min(len(queue), situation.max_batch)
        limit = max(_most(seconds, self._longest(situation), most), 1)
        return _step(situation, size, queue=queue, member=eldest, limit=limit)


_admission, _limit, _widest_of = (itemgetter(Entry._fields.index(name)) for name in ("number", "limit", "widest"))


def step_gains(table: Sequence[EnsembleFigures]) -> tuple[float, ...]:
    """What each step 0..N-1 is worth in expected accuracy, from the manifest's table.

    Measured accuracies are noisy and need not rise with every leaf, so a step is worth its cost times the best slope
    (accuracy per FLOP) of any continuation from there, and never less than `LEAST`. No answer is never correct.
    """
    flops = (0, *(row.flops for row in table))
    accuracy = (0.0, *(row.accuracy for row in table))

    def best_slope(size: int) -> float:
        further = range(size + 1, len(flops))
        return max((accuracy[other] - accuracy[size]) / max(flops[other] - flops[size], 1) for other in further)

    return tuple(max(best_slope(size) * (flops[size + 1] - flops[size]), LEAST) for size in range(len(table)))


def _step(
    situation: Situation,
    size: int,
    *,
    queue: Sequence[Entry] | None = None,
    limit: int | None = None,
    member: Entry | None = None,
) -> Decision | None:
    """The next leaf for the largest batch at an ensemble size that makes its deadlines, and holds `member`."""
    most = situation.max_batch if size else min(situation.max_batch, situation.free_slots)
    segment = Segment(size)
    entries = largest_batch(
        queue or situation.queues[size],
        partial(situation.costs.expected, segment),
        situation.now,
        min(most, limit or most),
        member=member,
    )
    return Decision(segment=segment, entries=entries) if entries else None


def _others_wait(situation: Situation, decision: Decision) -> bool:
    """Whether somebody waits for a first leaf who gets none in this batch."""
    served = 0 if decision.segment.start else len(decision.entries)
    return situation.queues.waiting > served


def _worthwhile_batch(situation: Situation, most: int) -> int:
    """How many of those who wait to give their first leaf together: more only where that serves more per second."""
    chosen, best_rate = 1, 0.0
    for batch in batch_sizes(most):
        if (rate := batch / situation.costs.expected(Segment(0), batch)) > WORTHWHILE * best_rate:
            chosen, best_rate = batch, rate
    return chosen


def _most(seconds: Callable[[int], float], longest: float, most: int) -> int:
    """The largest batch of 0..most that is through in time; `seconds` grows with the batch."""
    if not most or seconds(most) <= longest:
        return most
    return bisect_right(range(1, most), longest, key=seconds)


def _times(kappa: float, costs: Costs, segment: Segment, batch: int) -> float:
    return kappa * costs.expected(segment, batch)
