"""Baselines that choose the ensemble size of a batch from the tightest slack in it, before it runs."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf

from model_core.tree import Segment
from service.policies.whole import begin, resume, seconds_to
from service.scheduler import Decision, Entry, Situation, batch_sizes, largest_batch

__all__ = ["MostAccurate", "SlackFit"]

BUCKET = 0.75
"""Choices that take at least this part of the longest one count as equally long."""


class MostAccurate:
    """All who wait share a batch, as deep as the most urgent's deadline allows `margin` times over.

    Who could not even get one leaf in it is left out.
    """

    def __init__(self, leaves: int, *, margin: float = 1.0) -> None:
        self.margin = margin
        self._leaves = leaves

    def __call__(self, situation: Situation) -> Decision | None:
        if (started := resume(situation)) or not (entries := _savable(situation, self.margin)):
            return started
        limit = (entries[0].deadline - situation.now) / self.margin
        seconds = seconds_to(situation, self._leaves, len(entries))
        size = next((size for size in range(self._leaves, 1, -1) if seconds[size] <= limit), 1)
        return begin(situation, entries, size)


class SlackFit:
    """SuperServe's policy (Khare et al., NSDI 2025), on ensemble sizes as its sub-networks.

    Of all pairs of ensemble size and batch that fit the tightest slack `margin` times over it takes those that take
    longest (one bucket), and of these the largest batch, then the largest size: under load that means many shallow
    answers, otherwise few deep ones. Beyond the paper it leaves out who would hold the others up; without that it
    collapses under overload.
    """

    def __init__(self, leaves: int, *, margin: float = 1.0) -> None:
        self.margin = margin
        self._leaves = leaves

    def __call__(self, situation: Situation) -> Decision | None:
        if (started := resume(situation)) or not (entries := _savable(situation, self.margin)):
            return started
        limit = (entries[0].deadline - situation.now) / self.margin
        batches = batch_sizes(len(entries))
        choices = {}
        for batch in batches:
            deeper, seconds = inf, seconds_to(situation, self._leaves, batch)
            for size in range(self._leaves, 0, -1):
                if seconds[size] <= limit and seconds[size] < deeper:  # otherwise a deeper answer costs no more
                    choices[batch, size] = deeper = seconds[size]
        longest = max(choices.values(), default=inf)
        batch, size = max(
            (choice for choice, seconds in choices.items() if seconds >= BUCKET * longest), default=(1, 1)
        )
        return begin(situation, entries[:batch], size)


def _savable(situation: Situation, margin: float) -> Sequence[Entry]:
    """The largest set that can still get one leaf together."""
    limit = min(situation.max_batch, situation.free_slots)
    costs = situation.costs
    return largest_batch(
        situation.queues[0], lambda batch: margin * costs.expected(Segment(0), batch), situation.now, limit
    )
