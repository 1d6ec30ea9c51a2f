"""The ledger: every admitted request, where it stands and which slot it holds.

The engine's books, without its thread: no locks (the engine holds its own around every call), no clock (instants are
arguments). A request is in the ledger from admission to its one end; in between it is in a queue or in the batch
that runs.
"""

from __future__ import annotations

import logging
import sys
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import inf

from model_core.tree import Segment
from service.errors import QueueFullError, ServiceError
from service.request import Budget, Failure, Refinement, StopReason, Ticket, Update
from service.runners.base import Array, Rows, rows_of
from service.scheduler import ARRIVALS, LOSSES, REFUSALS, URGENT, Costs, Decision, Entry, Queues, Situation
from service.slots import SlotPool
from service.window import Rate, Share, Window

__all__ = ["Batch", "Ledger", "Listener", "Request", "tell"]

logger = logging.getLogger(__name__)

Listener = Callable[[Sequence[tuple[Ticket, Update]]], None]
"""Hears all updates of a step for the requests it was given with, at once. Called under the engine's lock: it must not
block. An asyncio listener hands them to its loop; see `service.delivery`."""


@dataclass(slots=True, kw_only=True, eq=False)
class Request:
    """One admitted request."""

    ticket: Ticket
    entry: Entry
    image: Array
    budget: Budget
    limit_reason: StopReason
    """Why it must stop at its entry's limit."""
    listener: Listener
    submitted_at: float
    size: int = 0
    slot: int = -1
    """Where it is in the pool; -1 until its first step."""
    queued: bool = True
    running: bool = False
    """In the batch that runs."""
    started_at: float = 0.0
    latest: Refinement | None = None

    def stop_reason(
        self, size: int, confidence: float, next_end: float, enough: float | None = None
    ) -> StopReason | None:
        """The budget that forbids the next step at an ensemble size, if one does; the step would end at `next_end`.

        `enough` is the confidence that is enough where the budget names none.
        """
        if size >= self.entry.limit:
            return self.limit_reason
        if self.budget.min_confidence is not None:
            enough = self.budget.min_confidence
        if enough is not None and enough < 1 and confidence >= enough:
            return StopReason.CONFIDENCE
        return StopReason.DEADLINE if next_end > self.entry.deadline else None


@dataclass(slots=True, kw_only=True)
class Batch:
    """Requests that take a segment together, in the order of their slots."""

    segment: Segment
    requests: list[Request]
    rows: Rows
    until: int
    """The ensemble size at which the last of them stops, whatever comes of it."""
    started_at: float
    enough: float | None
    """The confidence with which its requests stop that name none; see `Decision`."""
    since: float = 0.0
    """From when on it counts what it costs: the end of the batch before, where it followed at once, else its start."""
    follows_at: float | None = None
    """When the batch before was through, where this one followed at once."""
    through_at: float | None = None
    """When it had been computed; None if it has not, or failed."""


class Ledger:
    """The requests of one engine."""

    def __init__(self, flops: Sequence[int], pool: SlotPool, costs: Costs) -> None:
        self.queues = Queues(len(flops) - 1)
        self._flops = flops
        self._pool = pool
        self._costs = costs
        self._requests: dict[int, Request] = {}
        self._admitted = 0
        self._arrivals, self._crowd = Rate(ARRIVALS), Rate(ARRIVALS)
        self._slacks = Window(ARRIVALS, URGENT, empty=inf)
        self._lost, self._refused = Share(LOSSES), Share(REFUSALS)
        self.computing = False
        """Whether a batch has begun and is not released yet."""

    def __len__(self) -> int:
        return len(self._requests)

    def __contains__(self, ticket: Ticket) -> bool:
        return ticket.number in self._requests

    @property
    def admitted(self) -> int:
        """How many requests it has taken up so far."""
        return self._admitted

    def situation(
        self,
        now: float,
        *,
        segments: Sequence[Sequence[Segment]],
        max_batch: int,
        steps_run: int,
        keeping_costs: bool = False,
    ) -> Situation:
        """What a policy decides from, of which the books know all but this."""
        return Situation(
            queues=self.queues,
            segments=segments,
            costs=self._costs,
            now=now,
            max_batch=max_batch,
            free_slots=self._pool.available,
            steps_run=steps_run,
            keeping_costs=keeping_costs,
            admitted=self._admitted,
            arrival_rate=self._arrivals.at(now),
            crowd_rate=self._crowd.at(now),
            arrival_slack=self._slacks.value,
            lost=self._lost.value,
            refused=self._refused.value,
        )

    def admit(self, image: Array, budget: Budget, listener: Listener, now: float) -> Request:
        """Take a request up; it waits for its first step.

        Raises:
            BudgetError: the budget allows not even the first leaf, or is none.
        """
        limit, limit_reason = budget.size_limit(self._flops)
        deadline = inf if budget.deadline is None else budget.deadline
        self._refused.add(False)
        ticket = Ticket(self._admitted)
        self._admitted += 1
        self._arrivals.add(now)
        if self._requests:
            self._crowd.add(now)
        if deadline - now >= self._costs.expected(Segment(0), 1):
            self._slacks.add(deadline - now)
        request = Request(
            ticket=ticket,
            entry=Entry(deadline, ticket.number, limit, budget.priority, 1 if budget.step_by_step else sys.maxsize),
            image=image,
            budget=budget,
            limit_reason=limit_reason,
            listener=listener,
            submitted_at=now,
        )
        self._requests[ticket.number] = request
        self.queues.add(0, request.entry)
        return request

    def refuse(self, now: float) -> None:
        """A request came for which there was no waiting place: it is one of the crowd all the same."""
        self._arrivals.add(now)
        self._crowd.add(now)
        self._refused.add(True)

    def of(self, entry: Entry) -> Request:
        """The request behind an entry of the queues."""
        return self._requests[entry.number]

    def requests(self) -> list[Request]:
        """All of them."""
        return list(self._requests.values())

    def cancel(self, ticket: Ticket) -> None:
        """Forget a request, if it is still there."""
        if (request := self._requests.get(ticket.number)) is not None:
            self._remove(request)

    def begin(self, decision: Decision, now: float) -> Batch:
        """Move a decision's requests from their queue into a batch; those that start get a slot."""
        self.computing = True
        requests = [self.of(entry) for entry in decision.entries]
        for request in requests:
            self.queues.remove(request.size, request.entry)
            request.queued, request.running = False, True
            if request.slot < 0:
                request.slot, request.started_at = self._pool.take(), now
                if (refine_by := request.budget.refine_by) is not None and refine_by < request.entry.deadline:
                    request.entry = request.entry._replace(deadline=refine_by)
            if decision.target is not None and decision.target < request.entry.limit:
                request.entry = request.entry._replace(limit=decision.target)
                request.limit_reason = StopReason.POLICY
        requests.sort(key=lambda request: request.slot)  # neighbours in the pool need no copy
        return Batch(
            segment=decision.segment,
            requests=requests,
            rows=rows_of([request.slot for request in requests]),
            until=max(request.entry.limit for request in requests),
            started_at=now,
            enough=decision.enough,
        )

    def release(self, batch: Batch) -> list[tuple[int, Request]]:
        """A batch has run: its requests that still want the result, with their positions in it.

        Each is to be handed to `advance` or `end`.
        """
        self.computing = False
        remaining = []
        for position, request in enumerate(batch.requests):
            request.running = False
            if request.ticket.number in self._requests:
                remaining.append((position, request))
            else:  # cancelled meanwhile
                self._pool.free(request.slot)
        return remaining

    def advance(self, request: Request, refinement: Refinement) -> None:
        """A request has a new refinement; unless it is the last one, it waits for its next step."""
        if request.latest is None:
            self._lost.add(False)
        request.size, request.latest = refinement.ensemble_size, refinement
        if refinement.stop_reason is not None:
            self._remove(request)
        else:
            self.queues.add(request.size, request.entry)
            request.queued = True

    def end(self, request: Request, reason: StopReason, error: ServiceError, now: float) -> Update:
        """End a request with what it has: its latest refinement, or the error."""
        self._remove(request)
        if request.latest is None:
            self._lost.add(reason is StopReason.DEADLINE)
            if isinstance(error, QueueFullError):  # its place was taken
                self._refused.add(True)
            return Failure(error=error, at=now)
        return replace(request.latest, stop_reason=reason, ended_at=now)

    def _remove(self, request: Request) -> None:
        del self._requests[request.ticket.number]
        if request.queued:
            self.queues.remove(request.size, request.entry)
        if request.slot >= 0 and not request.running:  # `release` frees those that a running step still writes to
            self._pool.free(request.slot)


def tell(updates: Sequence[tuple[Request, Update]]) -> None:
    """Pass updates on to their listeners, one call for each listener."""
    mail: defaultdict[Listener, list[tuple[Ticket, Update]]] = defaultdict(list)
    for request, update in updates:
        mail[request.listener].append((request.ticket, update))
    for listener, letters in mail.items():
        try:
            listener(letters)
        except Exception:  # one listener's fault must not end the others' requests
            logger.exception("a listener failed; %d updates are lost", len(letters))
