"""Crowds: how far those who get their first leaf will come, with all who wait behind them and those who come.

Where it costs time to keep what further leaves start from, a first leaf is up to a tenth slower for it, and everyone
behind waits as much longer. So who will not get further leaves should not pay for them, nor anybody else. And where
requests find no place, those that are refined hold what others need.
"""

from __future__ import annotations

from dataclasses import replace
from math import inf, log2

from model_core.tree import Segment
from service.scheduler import ARRIVALS, Decision, Situation

__all__ = ["limited", "patient_from"]

PATIENT = 1000
"""A request is patient while its deadline is more than so many times a first leaf's seconds away."""


def patient_from(situation: Situation) -> float:
    """The instant from which on a deadline is far away."""
    return situation.now + PATIENT * situation.costs.expected(Segment(0), 1)


def limited(situation: Situation, decision: Decision) -> Decision:
    """A step, up to the ensemble size that its requests can reach before the last of their deadlines, or that the crowd
    leaves time for where going on costs others.

    Who will not be refined further has an answer that is as good now as at its deadline, and leaves its slot to others.
    """
    last, stop = decision.entries[-1].deadline, decision.segment.stop
    reach = len(situation.segments)
    if decision.segment.start == 0 and _crowded_until(situation, decision) > last:
        reach = stop
    elif situation.refused:  # slots and waiting places are what lacks, and who goes on holds one
        reach = max(int(_affordable(situation)), stop)
    elif decision.segment.start == 0 and situation.lost and situation.keeping_costs and last <= patient_from(situation):
        reach = max(1 << int(log2(_affordable(situation)) + 0.5), stop)
    return decision if reach >= len(situation.segments) else replace(decision, target=reach)


def _crowded_until(situation: Situation, decision: Decision) -> float:
    """When those who wait on will have left the machine.

    First leaves come before refinements, so with W that wait behind this batch of d seconds, requests that arrive at a
    rate of lambda, and c seconds for a first leaf, that is (W + lambda d) c / (1 - lambda c) seconds after the batch: a
    busy period of a queue, taken as a fluid. No more are thought to come than the rate was taken over, since a gust
    need not last.
    """
    entries, costs, rate = decision.entries, situation.costs, situation.arrival_rate
    seconds, each = costs.expected(decision.segment, len(entries)), costs.cheapest(Segment(0))
    left, spare = situation.queues.waiting - len(entries), 1 - rate * each
    lasting = (left + rate * seconds) * each / spare if spare > 0 else inf
    return situation.now + seconds + min(lasting, (left + ARRIVALS) * each)


def _affordable(situation: Situation) -> float:
    """How many leaves, from 1 on, the machine has the time for with everyone; as many as there are if nobody comes.

    A crowd's next request comes 1 / lambda seconds later, and what its first leaf leaves of these is there for further
    ones: 1 + (1 / lambda - c) / f leaves, with c and f seconds for them as they have lately been. Some find a lull and
    could get more; they are few, and what they lose is little.

    That is to be asked only while some are lost or refused. Clients that ask again when they have their answer come the
    faster the less they get: what they make of the machine's time is no sign that there is no more.
    """
    rate, costs, leaves = situation.crowd_rate, situation.costs, len(situation.segments)
    if not rate:
        return leaves
    return min(1 + max(1 / rate - costs.first_leaf, 0.0) / costs.further_leaf, leaves) if leaves > 1 else 1
