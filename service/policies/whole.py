"""What the baseline policies share: they decide how deep an answer gets before its first leaf runs.

Where the runner has no segment that computes such an answer at once, it takes several; nothing else is begun before
they are through, as if the model could not be interrupted. Requests without a deadline come last and may starve.
"""

from __future__ import annotations

from collections.abc import Sequence

from model_core.tree import Segment
from service.scheduler import Decision, Entry, Situation, batch_sizes, largest_batch

__all__ = ["begin", "efficient_batch", "resume", "route", "route_seconds"]

WORTHWHILE = 1.05
"""A larger batch has to serve so many times the requests per second of a smaller one."""


def route(segments: Sequence[Sequence[Segment]], start: int, stop: int) -> list[Segment]:
    """The segments that lead from one ensemble size to another, each the widest that the runner has."""
    path: list[Segment] = []
    while start < stop:
        path.append(next(segment for segment in reversed(segments[start]) if segment.stop <= stop))
        start = path[-1].stop
    return path


def route_seconds(situation: Situation, size: int, batch: int) -> float:
    """Expected seconds from nothing to an ensemble size."""
    path = route(situation.segments, 0, size)
    return sum(situation.costs.expected(segment, batch) for segment in path)


def efficient_batch(situation: Situation, size: int, margin: float) -> Sequence[Entry]:
    """Earliest deadline first, without those who cannot reach `size`: as many as a larger batch is more efficient for.

    On a machine that gains nothing from batching that is one; elsewhere the most urgent are left out where they would
    keep the batch small.
    """
    queue, best, best_rate = situation.queues[0], (), 0.0
    chosen: Sequence[Entry] = best
    for limit in batch_sizes(min(len(queue), situation.max_batch, situation.free_slots)):
        entries = largest_batch(
            queue, lambda batch: margin * route_seconds(situation, size, batch), situation.now, limit
        )
        if len(entries) < min(limit, len(chosen) + 1):
            break
        rate = len(entries) / route_seconds(situation, size, len(entries))
        if rate > WORTHWHILE * best_rate:
            chosen, best_rate = entries, rate
    return chosen


def begin(situation: Situation, entries: Sequence[Entry], size: int) -> Decision:
    """Start answers of an ensemble size; those whose budgets allow less than the most urgent's wait for their own."""
    target = min(size, entries[0].limit)
    alike = [entry for entry in entries if min(size, entry.limit) == target]
    return Decision(segment=route(situation.segments, 0, target)[0], entries=alike, target=target)


def resume(situation: Situation) -> Decision | None:
    """Go on with the answers that have been started, if there are any."""
    for size in range(len(situation.segments) - 1, 0, -1):
        if queue := situation.queues[size]:
            target = queue[0].limit
            segment = route(situation.segments, size, min(target, len(situation.segments)))[0]
            alike = [entry for entry in queue if entry.limit == target]
            return Decision(segment=segment, entries=alike[: situation.max_batch])
    return None
