"""The engine: one thread that turns admitted requests into refining predictions.

    step() = schedule (which segment, which requests), run (gather, compute, add up), deliver (tell the listeners)

Requests that stand at the same ensemble size share a batch, whenever they arrived. Everything but the computation
happens under one lock, briefly, so `submit` and `cancel` may come from any thread, and every request gets exactly one
end: a refinement with a stop reason, or a failure if it never got a leaf.
"""

from __future__ import annotations

import logging
import threading
import time
from bisect import bisect_right
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import inf

import numpy as np
from numpy.typing import NDArray

from model_core.package import Package
from model_core.tree import Segment
from service.errors import (
    BudgetError,
    DeadlineMissedError,
    DrainingError,
    QueueFullError,
    RunnerError,
    ServiceError,
)
from service.metrics import Recorder
from service.policies import Anytime
from service.profile import Profile, measure_profile
from service.request import Budget, Failure, Refinement, StopReason, Ticket, Update
from service.runners.base import Array, Runner
from service.scheduler import Decision, Entry, Policy, Queues, Situation, expired, seconds_until
from service.slots import IMAGE, SlotPool, kept_shapes
from service.state import EngineSettings, EngineState, StepProfile

__all__ = ["Engine", "EngineSettings", "EngineState", "Listener"]

logger = logging.getLogger(__name__)

Listener = Callable[[Sequence[tuple[Ticket, Update]]], None]
"""Hears all updates of a step for the requests it was given with, at once. Called under the engine's lock: it must not
block. An asyncio listener hands them to its loop; see `service.delivery`."""


@dataclass(slots=True, kw_only=True, eq=False)
class _Request:
    ticket: Ticket
    entry: Entry
    image: Array
    budget: Budget
    limit: int
    """The ensemble size at which it must stop, and why."""
    limit_reason: StopReason
    listener: Listener
    submitted_at: float
    size: int = 0
    slot: int = -1
    """Where it is in the pool; -1 until its first step."""
    queued: bool = True
    running: bool = False
    started_at: float = 0.0
    latest: Refinement | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class _Batch:
    segment: Segment
    requests: list[_Request]
    slots: list[int]
    started_at: float


class Engine:
    """Serves one package with one runner.

    Without a `profile` it measures one on construction, which takes `settings.profile_seconds`: an engine that exists
    can serve. Tests call `step` by hand; a service calls `start`, and `close` at the end.

    Raises:
        RunnerError: a step fails while the profile is measured.
    """

    def __init__(
        self,
        package: Package,
        runner: Runner,
        *,
        settings: EngineSettings,
        recorder: Recorder,
        clock: Callable[[], float] = time.monotonic,
        profile: Profile | None = None,
        policy: Policy | None = None,
    ) -> None:
        manifest = package.manifest
        self.settings = settings
        self.recorder = recorder
        self.clock = clock
        self._package = package
        self._runner = runner
        self._tree = manifest.spec.tree
        self._input_shape = manifest.spec.input_shape
        self._flops = manifest.cumulative_flops
        self._temperatures = (1.0, *(row.temperature for row in manifest.table))
        self._max_batch = min(settings.max_batch, runner.max_batch or settings.max_batch)
        self._profile = profile or measure_profile(
            runner,
            self._tree,
            self._input_shape,
            max_batch=self._max_batch,
            clock=clock,
            seconds=settings.profile_seconds,
        )
        self._policy = policy or Anytime(manifest.table)
        shapes = kept_shapes(self._tree, runner.shapes, self._input_shape)
        self._pool = SlotPool(settings.max_active, shapes, manifest.spec.classes)
        self._queues = Queues(self._tree.leaves)
        self._requests: dict[int, _Request] = {}
        self._admitted = 0
        self._steps_run = 0
        self._draining = False
        self._closed = False
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        recorder.watch(
            queue_limit=settings.max_waiting,
            queue_depth=lambda: len(self._queues[0]),
            inflight=lambda: len(self._requests),
            ensemble_size_allowed=lambda: self.snapshot().ensemble_size_allowed,
        )

    def start(self) -> None:
        """Serve from a thread of its own."""
        assert self._thread is None
        self._thread = threading.Thread(target=self._serve, name="hne-engine", daemon=True)
        self._thread.start()

    def submit(self, image: Array, budget: Budget, listener: Listener) -> Ticket:
        """Admit a normalised image (C, H, W). Its updates go to `listener`, possibly before this returns.

        Raises:
            BudgetError: the budget allows not even the first leaf, or is none.
            QueueFullError: every waiting place is taken.
            DrainingError: the engine shuts down.
        """
        limit, limit_reason = self._limit(budget)
        if image.shape != self._input_shape:
            raise ValueError(f"the model takes images of shape {self._input_shape}, got {image.shape}")
        with self._changed:
            if self._draining:
                self.recorder.rejected("draining")
                raise DrainingError
            if len(self._queues[0]) >= self.settings.max_waiting:
                self.recorder.rejected("queue_full")
                raise QueueFullError(self._seconds_until(1 if self._pool.available else self._tree.leaves))
            ticket = Ticket(self._admitted)
            self._admitted += 1
            entry = Entry(inf if budget.deadline is None else budget.deadline, ticket.number)
            self._requests[ticket.number] = _Request(
                ticket=ticket,
                entry=entry,
                image=image,
                budget=budget,
                limit=limit,
                limit_reason=limit_reason,
                listener=listener,
                submitted_at=self.clock(),
            )
            self._queues.add(0, entry)
            self._changed.notify_all()
        return ticket

    def cancel(self, ticket: Ticket) -> None:
        """Forget a request: it hears nothing more, and its slot is free when the step that is running ends.

        Harmless after its end.
        """
        with self._changed:
            if (request := self._requests.get(ticket.number)) is not None:
                self._remove(request)

    def drain(self, timeout: float) -> None:
        """Admit nobody any more, and answer everyone: who is not done after `timeout` seconds gets what it has."""
        with self._changed:
            self._draining = True
            self._changed.wait_for(lambda: not self._requests, timeout)
            self._answer_everyone()

    def close(self) -> None:
        """Answer everyone with what they have, end the thread and close the runner."""
        with self._changed:
            self._draining = self._closed = True
            self._answer_everyone()
            self._changed.notify_all()
        if self._thread is not None:
            self._thread.join()
        self._runner.close()

    def snapshot(self) -> EngineState:
        """Limits, load and profile."""
        with self._changed:
            reachable = [
                size
                for size in self._tree.ensemble_sizes
                if self._seconds_until(size, arriving=1) <= self.settings.reference_deadline
            ]
            return EngineState(
                settings=self.settings,
                memory_bytes=self._pool.memory_bytes,
                active=self._pool.capacity - self._pool.available,
                waiting=len(self._queues[0]),
                draining=self._draining,
                ensemble_size_allowed=max(reachable, default=0),
                profile=tuple(self._step_profile(Segment(leaf)) for leaf in range(self._tree.leaves)),
            )

    def step(self) -> bool:
        """Schedule, run and deliver one batch. False if there was nothing to run."""
        with self._changed:
            batch = self._schedule()
        if batch is None:
            return False
        try:
            logit_sums = self._run(batch)
        except Exception as error:  # whatever it was: it is this batch's end, not the engine's
            logger.exception("step %d failed for %d requests", batch.segment.start, len(batch.requests))
            with self._changed:
                self._deliver(self._fail(batch, error))
        else:
            with self._changed:
                self._deliver(self._advance(batch, logit_sums))
        return True

    # The thread

    def _serve(self) -> None:
        try:
            while self._await_work():
                self.step()
        finally:  # also if a fault of our own ends the thread: nobody is left waiting, nobody else is admitted
            with self._changed:
                self._draining = True
                self._answer_everyone()

    def _await_work(self) -> bool:
        with self._changed:
            self._changed.wait_for(lambda: self._queues or self._closed)
            return not self._closed

    # Schedule

    def _schedule(self) -> _Batch | None:
        now = self.clock()
        self._end_expired(now)
        situation = Situation(
            queues=self._queues,
            costs=self._profile,
            now=now,
            max_batch=self._max_batch,
            free_slots=self._pool.available,
            steps_run=self._steps_run,
        )
        decision = self._policy(situation)
        return None if decision is None else self._begin(decision, now)

    def _end_expired(self, now: float) -> None:
        """End those whose next step could not end in time, before any more work goes into them."""
        updates = []
        for _, entry in expired(self._queues, self._profile, now):
            request = self._requests[entry.number]
            if request.latest is None:
                self.recorder.rejected("deadline")
            updates.append((request, self._end(request, StopReason.DEADLINE, DeadlineMissedError())))
        self._deliver(updates)

    def _begin(self, decision: Decision, now: float) -> _Batch:
        requests = [self._requests[entry.number] for entry in decision.entries]
        for request in requests:
            self._queues.remove(request.size, request.entry)
            request.queued, request.running = False, True
            if request.slot < 0:
                request.slot = self._pool.take()
                request.started_at = now
                self.recorder.started(waited=now - request.submitted_at)
        requests.sort(key=lambda request: request.slot)  # neighbours in the pool need no copy
        slots = [request.slot for request in requests]
        return _Batch(segment=decision.segment, requests=requests, slots=slots, started_at=now)

    # Run

    def _run(self, batch: _Batch) -> Array:
        """Compute a segment and keep its results; returns the logit sums (B, K)."""
        logits, activations = self._runner.run(batch.segment, self._inputs(batch))
        for block, activation in activations.items():
            self._pool.store(block, batch.slots, activation)
        return self._pool.add_logits(batch.slots, logits)

    def _inputs(self, batch: _Batch) -> Array:
        entry = self._tree.entry_block(batch.segment.start)
        if batch.segment.start:
            return self._pool.gather(entry - 1 if entry else IMAGE, batch.slots)
        images = np.stack([request.image for request in batch.requests])
        self._pool.store(IMAGE, batch.slots, images)
        return images

    # Deliver

    def _advance(self, batch: _Batch, logit_sums: Array) -> list[tuple[_Request, Update]]:
        """Everyone's next refinement, and their place in the next queue or their end."""
        now, size, count = self.clock(), batch.segment.stop, len(batch.requests)
        self._steps_run += 1
        self._profile.observe(batch.segment, count, now - batch.started_at)
        spent = self._flops[size] - self._flops[batch.segment.start]
        self.recorder.step(ensemble_size=size, batch=count, seconds=now - batch.started_at, flops=count * spent)
        probabilities = _softmax(logit_sums / np.float32(size * self._temperatures[size]))
        updates: list[tuple[_Request, Update]] = []
        for request, row in zip(batch.requests, probabilities, strict=True):
            if not self._still_here(request):
                continue
            if request.latest is None:
                self.recorder.first_prediction(seconds=now - request.submitted_at)
            request.size = size
            request.latest = Refinement(
                ensemble_size=size,
                flops=self._flops[size],
                probabilities=row,
                stop_reason=self._stop_reason(request, float(row.max()), now),
                started_at=request.started_at,
                first_at=request.latest.first_at if request.latest else now,
                at=now,
            )
            if request.latest.stop_reason is None:
                self._queues.add(size, request.entry)
                request.queued = True
            else:
                self._remove(request)
            updates.append((request, request.latest))
        return updates

    def _stop_reason(self, request: _Request, confidence: float, now: float) -> StopReason | None:
        """The budget that forbids the next step, if one does."""
        if request.size >= request.limit:
            return request.limit_reason
        if request.budget.min_confidence is not None and confidence >= request.budget.min_confidence:
            return StopReason.CONFIDENCE
        if now + self._profile.quantile(Segment(request.size), 1) > request.entry.deadline:
            return StopReason.DEADLINE
        return None

    def _fail(self, batch: _Batch, error: Exception) -> list[tuple[_Request, Update]]:
        """A step failed: who has a leaf is answered with it, the others with the error."""
        fault = (
            error
            if isinstance(error, ServiceError)
            else RunnerError(self._package.step(batch.segment.start), repr(error))
        )
        requests = [request for request in batch.requests if self._still_here(request)]
        return [(request, self._end(request, StopReason.ERROR, fault)) for request in requests]

    def _deliver(self, updates: Sequence[tuple[_Request, Update]]) -> None:
        """Tell every listener once."""
        mail: defaultdict[Listener, list[tuple[Ticket, Update]]] = defaultdict(list)
        for request, update in updates:
            mail[request.listener].append((request.ticket, update))
        for listener, batch in mail.items():
            try:
                listener(batch)
            except Exception:  # one listener's fault must not end the others' requests
                logger.exception("a listener failed; %d updates are lost", len(batch))

    # Requests come and go

    def _still_here(self, request: _Request) -> bool:
        """Whether a request of the batch that just ran wants its result; the slot of a cancelled one is free now."""
        request.running = False
        if request.ticket.number in self._requests:
            return True
        self._pool.free(request.slot)
        return False

    def _end(self, request: _Request, reason: StopReason, error: ServiceError) -> Update:
        """End a request with what it has: its latest refinement, or the error."""
        self._remove(request)
        if request.latest is None:
            return Failure(error=error, at=self.clock())
        return replace(request.latest, stop_reason=reason)

    def _remove(self, request: _Request) -> None:
        """Forget a request. If its step is running, its slot stays taken until the step ends."""
        del self._requests[request.ticket.number]
        if request.queued:
            self._queues.remove(request.size, request.entry)
            request.queued = False
        if request.slot >= 0 and not request.running:
            self._pool.free(request.slot)
        if not self._requests:
            self._changed.notify_all()

    def _answer_everyone(self) -> None:
        requests = list(self._requests.values())
        self._deliver([(request, self._end(request, StopReason.DRAIN, DrainingError())) for request in requests])

    # Figures

    def _limit(self, budget: Budget) -> tuple[int, StopReason]:
        """The ensemble size that size and FLOP budgets allow, and which of them it was."""
        leaves = self._tree.leaves
        limits = [(leaves, StopReason.COMPLETE)]
        if budget.max_ensemble_size is not None:
            limits.append((budget.max_ensemble_size, StopReason.ENSEMBLE_SIZE))
        if budget.max_flops is not None:
            limits.append((bisect_right(self._flops, budget.max_flops) - 1, StopReason.FLOPS))
        size, reason = min(limits, key=lambda limit: limit[0])
        if size < 1 and reason is StopReason.FLOPS:
            raise BudgetError(f"max_flops is {budget.max_flops}, but the first leaf takes {self._flops[1]}")
        if size < 1:
            raise BudgetError(f"max_ensemble_size must be at least 1, got {size}")
        if budget.min_confidence is not None and not 0 < budget.min_confidence <= 1:
            raise BudgetError(f"min_confidence must be above 0 and at most 1, got {budget.min_confidence}")
        return size, reason

    def _seconds_until(self, size: int, *, arriving: int = 0) -> float:
        return seconds_until(self._queues, self._profile, size, self._max_batch, arriving=arriving)

    def _step_profile(self, segment: Segment) -> StepProfile:
        batches = self._profile.batches(segment)
        return StepProfile(
            ensemble_size=segment.stop,
            expected={batch: self._profile.expected(segment, batch) for batch in batches},
            quantile={batch: self._profile.quantile(segment, batch) for batch in batches},
        )


def _softmax(logits: Array) -> NDArray[np.float32]:
    """Over the last axis."""
    exponentials = np.exp(logits - logits.max(axis=-1, keepdims=True))
    probabilities: NDArray[np.float32] = exponentials / exponentials.sum(axis=-1, keepdims=True)
    return probabilities
