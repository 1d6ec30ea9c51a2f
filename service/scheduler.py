"""What the engine decides from, and what a decision is. Pure: no torch, no asyncio, no clock, no threads.

The engine keeps `Queues`; before every step it asks `expired` who can take no further step, and a `Policy` which
batch to run. A simulator can drive the same code on virtual time.
"""

from __future__ import annotations

import sys
from bisect import bisect_left, insort
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from model_core.tree import Segment
from service.request import Priority

__all__ = [
    "ARRIVALS",
    "LOSSES",
    "REFUSALS",
    "URGENT",
    "Costs",
    "Decision",
    "Entry",
    "Policy",
    "Queues",
    "Situation",
    "batch_sizes",
    "by_start",
    "expired",
    "largest_batch",
    "seconds_until",
]


ARRIVALS = 64
"""Over how many requests it is taken how fast and how urgent they come."""
LOSSES = 256
"""Over how many requests it is taken how many are lost."""
REFUSALS = 1024
"""Over how many requests it is taken how many are refused: more than have to wait until any are."""
URGENT = 0.05
"""The share of these that may be more urgent than what is counted on."""


class Entry(NamedTuple):
    """A request as the scheduler sees it. Sorts by urgency."""

    deadline: float
    """Monotonic seconds; infinity for none."""
    number: int
    """Order of admission, >= 0."""
    limit: int = sys.maxsize
    """The ensemble size that its budgets, or a policy, allow at most."""
    priority: Priority = Priority.NORMAL
    widest: int = sys.maxsize
    """Leaves of the widest segment that it wants to be part of."""


class Costs(Protocol):
    """Seconds a segment takes for a batch; `service.profile.Profile` measures them."""

    @property
    def straggle(self) -> float:
        """How many times what it usually takes a segment of any kind rarely exceeds, >= 1."""
        ...

    def expected(self, segment: Segment, batch: int) -> float:
        """What it usually takes."""
        ...

    def cheapest(self, segment: Segment) -> float:
        """What it usually takes per request, at the batch size that is most efficient."""
        ...

    @property
    def first_leaf(self) -> float:
        """What a request's first leaf has lately cost on average: slow steps and the engine's own work included."""
        ...

    @property
    def further_leaf(self) -> float:
        """The same of a leaf after the first."""
        ...


class Queues:
    """The requests that may take a further step, by ensemble size, most urgent first.

    `queues[n]` are those at size n whose FLOP, size and confidence budgets allow step n. Those who wait for their first
    leaf stand in a queue for each priority; `queues[0]` is that of the highest who wait. The requests of the batch that
    is running are in none.
    """

    def __init__(self, leaves: int) -> None:
        self._waiting: list[list[Entry]] = [[] for _ in Priority]
        self._started: list[list[Entry]] = [[] for _ in range(1, leaves)]
        self._count = 0

    def __getitem__(self, size: int) -> Sequence[Entry]:
        return self._started[size - 1] if size else next(filter(None, self._waiting), ())

    def __bool__(self) -> bool:
        return self._count > 0

    @property
    def waiting(self) -> int:
        """How many wait for their first leaf."""
        return sum(map(len, self._waiting))

    def everyone(self) -> Iterator[tuple[int, Sequence[Entry]]]:
        """All queues that are not empty, with their ensemble sizes."""
        yield from ((0, queue) for queue in self._waiting if queue)
        yield from ((size, queue) for size, queue in enumerate(self._started, 1) if queue)

    def ahead_of(self, entry: Entry) -> int:
        """How many of those who wait come before a request."""
        higher = sum(map(len, self._waiting[: entry.priority]))
        return higher + bisect_left(self._waiting[entry.priority], entry)

    def last(self) -> Entry:
        """The least urgent of the lowest who wait; there must be one."""
        return next(filter(None, reversed(self._waiting)))[-1]

    def add(self, size: int, entry: Entry) -> None:
        """A request may take step `size`."""
        insort(self._of(size, entry), entry)
        self._count += 1

    def remove(self, size: int, entry: Entry) -> None:
        """A request takes its step, or leaves. It must be there."""
        queue = self._of(size, entry)
        index = bisect_left(queue, entry)
        assert queue[index] == entry
        del queue[index]
        self._count -= 1

    def _of(self, size: int, entry: Entry) -> list[Entry]:
        return self._started[size - 1] if size else self._waiting[entry.priority]


@dataclass(slots=True, kw_only=True)  # nobody changes one; frozen, making it takes three times as long
class Situation:
    """All that a policy may look at."""

    queues: Queues
    segments: Sequence[Sequence[Segment]]
    """What the runner computes, by the ensemble size it starts at, narrowest first; the first is the step."""
    costs: Costs
    now: float
    max_batch: int
    free_slots: int
    """How many of `queues[0]` can be given a slot."""
    steps_run: int
    """How many batches the engine has run so far."""
    keeping_costs: bool
    """Whether first leaves are the slower for what they keep for further ones."""
    admitted: int
    """How many requests the engine has admitted so far."""
    arrival_rate: float
    """Requests per second, over the last `ARRIVALS`; 0, which is unknown, until there are so many."""
    crowd_rate: float
    """Requests per second that found others here when they came, over the last `ARRIVALS` of these; 0, which is
    unknown, until there are so many. A client that is alone is no crowd, however often it asks.
    """
    arrival_slack: float
    """Seconds until their deadlines with which the most urgent of them came, but for a share of `URGENT`, and for those
    who could have no leaf in time even alone; infinity before there is any."""
    lost: float
    """The share of the last `LOSSES` to have a first leaf or be given up here that had none in time. Who is called
    off at its deadline, as over HTTP, is not counted: most of these the front has lost, which no shorter batch helps.
    """
    refused: float
    """The share of the last `REFUSALS` to come for which there was no waiting place."""


@dataclass(slots=True, kw_only=True)  # as a `Situation`
class Decision:
    """Run this segment for these requests, all of `queues[segment.start]`, none beyond its limit."""

    segment: Segment
    entries: Sequence[Entry]
    target: int | None = None
    """The ensemble size at which these requests stop from now on; None leaves that to their budgets."""
    enough: float | None = None
    """The calibrated top probability with which those of them stop after this segment that name none; None: none do."""


class Policy(Protocol):
    """Chooses the next batch."""

    def __call__(self, situation: Situation) -> Decision | None:
        """The next batch: at least one request, no more than `max_batch` (and `free_slots` from size 0), each of which
        is expected to finish the segment before its deadline. None if nothing is worth running.
        """
        ...


def batch_sizes(most: int) -> list[int]:
    """1, 2, 4, ... and `most`."""
    return [1 << power for power in range(most.bit_length()) if 1 << power < most] + [most]


def by_start(segments: Iterable[Segment], leaves: int) -> tuple[tuple[Segment, ...], ...]:
    """A runner's segments as a `Situation` has them."""
    ordered = sorted(segments)
    return tuple(tuple(segment for segment in ordered if segment.start == start) for start in range(leaves))


def expired(queues: Queues, costs: Costs, now: float) -> list[Entry]:
    """The requests that could not finish their next step in time even if it ran alone, at once and as fast as usual.

    Not by a high quantile: once stragglers drove that beyond the deadlines, everyone would be given up, nothing would
    run, and so nothing would ever correct it. Caution is the policy's, where it has a choice.
    """
    late: list[Entry] = []
    for size, queue in queues.everyone():
        if queue[0].deadline < (due := now + costs.expected(Segment(size), 1)):
            late += queue[: bisect_left(queue, _first_due(due))]
    return late


def largest_batch(
    queue: Sequence[Entry], seconds: Callable[[int], float], now: float, limit: int, *, member: Entry | None = None
) -> Sequence[Entry]:
    """The largest batch of a queue that makes all its deadlines; the most urgent of those that can be in it.

    `seconds` tells how long a batch has to be thought to take; a larger one takes no less. If a `member` of the queue
    is named, the largest that holds it too; () if it cannot make its deadline alone.
    """

    def first(size: int) -> int:
        """Where in the queue a batch of this size begins; -1 if there is none."""
        begin = bisect_left(queue, _first_due(now + seconds(size)))
        if len(queue) - begin < size or (member is not None and member < queue[begin]):
            return -1
        return begin

    size = min(len(queue), limit)
    begin = first(size) if size else -1
    if begin < 0:
        size, too_large = 0, size
        while too_large - size > 1:
            middle = (size + too_large) // 2
            if (found := first(middle)) < 0:
                too_large = middle
            else:
                size, begin = middle, found
    batch = queue[begin : begin + size] if size else ()
    return batch if not batch or member is None or member <= batch[-1] else (*batch[:-1], member)


def seconds_until(queues: Queues, costs: Costs, size: int, max_batch: int, *, arriving: int = 0) -> float:
    """Expected seconds until everyone queued, and `arriving` more, has reached an ensemble size in full batches."""
    seconds, behind = 0.0, arriving
    for step in range(size):
        behind += len(queues[step]) if step else queues.waiting
        full, rest = divmod(behind, max_batch)
        if full:
            seconds += full * costs.expected(Segment(step), max_batch)
        if rest:
            seconds += costs.expected(Segment(step), rest)
    return seconds


def _first_due(instant: float) -> Entry:
    """Sorts before every request due at that instant or later, after all others."""
    return Entry(instant, -1)
