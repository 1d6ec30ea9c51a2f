"""What the baseline policies share: they decide how deep an answer gets before its first leaf runs.

Where the runner has no segment that computes such an answer at once, it takes several; nothing else is begun before
they are through, as if the model could not be interrupted. Requests without a deadline come last and may starve.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache, partial
from math import inf

from model_core.tree import Segment
from service.scheduler import Decision, Entry, Situation, batch_sizes, largest_batch

__all__ = ["begin", "cheapest_routes", "efficient_batch", "resume", "seconds_to"]

WORTHWHILE = 1.05
"""A larger batch has to serve so many times the requests per second of a smaller one."""


def seconds_to(situation: Situation, size: int, batch: int) -> list[float]:
    """Expected seconds from nothing to the ensemble sizes 0 to `size`, by the segments that take least."""
    return [seconds for seconds, _ in _routes(situation, 0, size, batch)]


def cheapest_routes(
    segments: Sequence[Sequence[Segment]], price: Callable[[Segment], float], start: int, stop: int
) -> list[tuple[float, Segment | None]]:
    """The least price of segments that lead from one ensemble size to each of 0 to `stop`, and the one to begin with,
    among equals the widest; infinity and None where none do. `segments` are by the size they start at, narrowest first.
    """
    cheapest: list[tuple[float, Segment | None]] = [(inf, None)] * (stop + 1)
    cheapest[start] = 0.0, None
    for size in range(start, stop):
        spent, first = cheapest[size]
        for segment in reversed(segments[size]):
            if segment.stop <= stop and (reached := spent + price(segment)) < cheapest[segment.stop][0]:
                cheapest[segment.stop] = reached, first or segment
    return cheapest


def _routes(situation: Situation, start: int, stop: int, batch: int) -> list[tuple[float, Segment | None]]:
    """In seconds that a batch of this size is expected to take. Small ones are best served by wide segments, large ones
    not always: a runner may have more threads for the steps.
    """
    return cheapest_routes(situation.segments, partial(situation.costs.expected, batch=batch), start, stop)


def _next(situation: Situation, start: int, stop: int, batch: int) -> Segment:
    """The segment to run next, for a batch that is to get from one ensemble size to another."""
    _, segment = _routes(situation, start, stop, batch)[stop]
    assert segment is not None
    return segment


def efficient_batch(situation: Situation, size: int, margin: float) -> Sequence[Entry]:
    """Earliest deadline first, without those who cannot reach `size`: as many as a larger batch is more efficient for.

    On a machine that gains nothing from batching that is one; elsewhere the most urgent are left out where they would
    keep the batch small.
    """

    @cache
    def seconds(batch: int) -> float:
        return seconds_to(situation, size, batch)[size]

    queue, best_rate = situation.queues[0], 0.0
    chosen: Sequence[Entry] = ()
    for limit in batch_sizes(min(len(queue), situation.max_batch, situation.free_slots)):
        entries = largest_batch(queue, lambda batch: margin * seconds(batch), situation.now, limit)
        if len(entries) < min(limit, len(chosen) + 1):
            break
        rate = len(entries) / seconds(len(entries))
        if rate > WORTHWHILE * best_rate:
            chosen, best_rate = entries, rate
    return chosen


def begin(situation: Situation, entries: Sequence[Entry], size: int) -> Decision:
    """Start answers of an ensemble size; those whose budgets allow less than the most urgent's wait for their own."""
    target = min(size, entries[0].limit)
    alike = [entry for entry in entries if min(size, entry.limit) == target]
    return Decision(segment=_next(situation, 0, target, len(alike)), entries=alike, target=target)


def resume(situation: Situation) -> Decision | None:
    """Go on with the answers that have been started, if there are any."""
    for size in range(len(situation.segments) - 1, 0, -1):
        if queue := situation.queues[size]:
            target = queue[0].limit
            alike = [entry for entry in queue if entry.limit == target][: situation.max_batch]
            segment = _next(situation, size, min(target, len(situation.segments)), len(alike))
            return Decision(segment=segment, entries=alike)
    return None
