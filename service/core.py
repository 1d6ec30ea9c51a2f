"""The core: all of an engine but its thread and its lock. It turns admitted requests into refining predictions.

    admit -> [ give_up -> schedule -> compute -> advance -> book ]* -> an end:
        a refinement with a stop reason, or a failure

Requests that stand at the same ensemble size share a batch, whenever they arrived. Only `compute` takes time; nothing
else may run beside anything. Everything else is to be called one at a time, which is what the engine's lock is for.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from model_core.package import Package
from model_core.tree import Segment
from service.errors import DeadlineMissedError, DrainingError, QueueFullError, RunnerError, ServiceError
from service.ledger import Batch, Ledger, Listener, Request
from service.metrics import Recorder
from service.policies import parse_policy
from service.policies.whole import cheapest_routes
from service.probes import Probes
from service.profile import Profile
from service.request import Budget, Refinement, StopReason, Ticket, Update
from service.runners.base import Array, Runner
from service.scheduler import Policy, by_start, expired, seconds_until
from service.slots import SlotPool
from service.state import EngineSettings, EngineState
from service.timings import timings_of

__all__ = ["Core", "Updates"]

logger = logging.getLogger(__name__)

Updates = list[tuple[Request, Update]]
"""Whom to tell what, in the order it happened."""


class Core:
    """Serves one package with one runner, a batch at a time.

    Without a `profile` it measures one on construction, which takes `settings.profile_seconds`, or reads what was
    measured the last time.

    Raises:
        RunnerError: a step fails while the profile is measured.
        SettingsError: there is no such policy, or no memory for so many slots.
    """

    def __init__(
        self,
        package: Package,
        runner: Runner,
        *,
        settings: EngineSettings,
        recorder: Recorder,
        clock: Callable[[], float],
        profile: Profile | None = None,
        policy: Policy | None = None,
    ) -> None:
        manifest = package.manifest
        self.settings, self.recorder, self.clock = settings, recorder, clock
        self.runner = runner
        self._package = package
        self._tree = manifest.spec.tree
        self._input_shape = manifest.spec.input_shape
        self._flops = manifest.cumulative_flops
        self._temperatures = (1.0, *(row.temperature for row in manifest.table))
        self._max_batch = min(settings.max_batch, runner.max_batch or settings.max_batch)
        self._policy = policy or parse_policy(settings.policy, manifest.table)
        self._segments = by_start(runner.segments, self._tree.leaves)
        self._pool = SlotPool(settings.max_active, manifest.spec.classes)
        self._memory_bytes = runner.reserve(settings.max_active) + self._pool.memory_bytes
        self._profile = profile or Profile(
            self._tree,
            timings_of(
                package,
                runner,
                max_batch=min(self._max_batch, settings.max_active),
                clock=clock,
                seconds=settings.profile_seconds,
                keep=settings.keep_profile,
            ),
            max_batch=self._max_batch,
            pads=runner.pads,
        )
        self.probes = Probes(runner, self._tree, self._input_shape, clock)
        self.ledger = Ledger(self._flops, self._pool, self._profile)
        self._steps_run = 0
        self._free_at = 0.0
        """When the batch that runs is expected to be through."""
        self._through_at: float | None = None
        """When the batch before was through, if the next one follows at once."""

    # Requests

    def admit(self, image: Array, budget: Budget, listener: Listener) -> tuple[Ticket, Updates]:
        """Take up a request with a normalised image (C, H, W), or give it up at once if it could get no leaf in time.

        Where every waiting place is taken, it takes that of the least urgent of a lower priority, if there is one.

        Raises:
            BudgetError: the budget allows not even the first leaf, or is none.
            QueueFullError: every waiting place is taken.
        """
        if image.shape != self._input_shape:
            raise ValueError(f"the model takes images of shape {self._input_shape}, got {image.shape}")
        now, queues = self.clock(), self.ledger.queues
        full = queues.waiting >= self.settings.max_waiting
        last = self.ledger.of(queues.last()) if full else None
        if last is not None and last.entry.priority <= budget.priority:
            self.ledger.refuse(now)
            raise self._full()
        request = self.ledger.admit(image, budget, listener, now)
        if self._first_leaf_at(request, now) > request.entry.deadline:
            self.probes.refused(Segment(0))
            return request.ticket, self._end([request], StopReason.DEADLINE, DeadlineMissedError())
        return request.ticket, self._end([last], StopReason.DEADLINE, self._full()) if last is not None else []

    def cancel(self, ticket: Ticket) -> None:
        """Forget a request, if it is still there."""
        self.ledger.cancel(ticket)
        if not self.ledger.queues:  # from now on the device rests, which is no part of what the next batch costs
            self._through_at = None

    def end_all(self) -> Updates:
        """Answer everyone with what they have."""
        self._through_at = None
        return self._end(self.ledger.requests(), StopReason.DRAIN, DrainingError())

    def give_up(self) -> Updates:
        """End those whose next step could not end in time, before any more work goes into them."""
        late = [self.ledger.of(entry) for entry in expired(self.ledger.queues, self._profile, self.clock())]
        if not late:
            return []
        for size in {request.size for request in late}:
            self.probes.refused(Segment(size))
        return self._end(late, StopReason.DEADLINE, DeadlineMissedError())

    # Batches

    def schedule(self, *, within: float = math.inf) -> Batch | None:
        """The next batch to compute, by the policy; None if nothing is worth running, or it is expected to take more
        than so many seconds."""
        now = self.clock()
        situation = self.ledger.situation(
            now,
            segments=self._segments,
            max_batch=self._max_batch,
            steps_run=self._steps_run,
            keeping_costs=self.runner.keeping_costs,
        )
        decision = self._policy(situation)
        if decision is None:
            self._through_at = None
            return None
        seconds = self._profile.expected(decision.segment, len(decision.entries))
        if seconds > within:
            return None
        batch = self.ledger.begin(decision, now)
        batch.follows_at = self._through_at
        batch.since = now if batch.follows_at is None else batch.follows_at
        self._free_at = now + seconds
        return batch

    def compute(self, batch: Batch) -> None:
        """Run a batch's segment and add up its logits: what takes time, and beside which all others may run."""
        images = _together(batch.requests) if batch.segment.start == 0 else None
        if batch.follows_at is not None:
            self.recorder.step_gap(seconds=self.clock() - batch.follows_at)
        self._pool.add_logits(batch.rows, self.runner.run(batch.segment, batch.rows, images, until=batch.until))

    def advance(self, batch: Batch) -> Updates:
        """A batch has been computed: everyone's next refinement, and with it their place in the next queue or their
        end."""
        now = batch.through_at = self.clock()
        size = batch.segment.stop
        self._steps_run += 1
        self.probes.ran(batch.segment)
        probabilities = self._pool.probabilities(batch.rows, size, self._temperatures[size])
        confidences = probabilities.max(axis=1).tolist()
        next_end = now + self._profile.expected(Segment(size), 1) if size < self._tree.leaves else now
        updates: Updates = []
        out_of_time = False
        for position, request in self.ledger.release(batch):
            if not math.isfinite(confidences[position]):  # too large for half a precision, or weights that are broken
                error = RunnerError(self._package.step(batch.segment.start), "its logits are no numbers for an image")
                logger.error("%s", error)
                updates += self._end([request], StopReason.ERROR, error)
                continue
            first_at = now if request.latest is None else request.latest.first_at
            stop_reason = request.stop_reason(size, confidences[position], next_end, batch.enough)
            out_of_time = out_of_time or stop_reason is StopReason.DEADLINE
            refinement = Refinement(
                ensemble_size=size,
                flops=self._flops[size],
                probabilities=probabilities[position],
                stop_reason=stop_reason,
                started_at=request.started_at,
                first_at=first_at,
                at=now,
                ended_at=None if stop_reason is None else now,
            )
            self.ledger.advance(request, refinement)
            updates.append((request, refinement))
        if out_of_time:
            self.probes.refused(Segment(size))
        self._through_at = now if self.ledger.queues else None
        return updates

    def fail(self, batch: Batch, error: Exception) -> Updates:
        """A step failed: who has a leaf is answered with it, the others with the error."""
        if not isinstance(error, ServiceError):
            error = RunnerError(self._package.step(batch.segment.start), repr(error))
        self._through_at = None
        return self._end([request for _, request in self.ledger.release(batch)], StopReason.ERROR, error)

    def book(self, batch: Batch) -> None:
        """Count a batch that was computed, or failed, for the profile and the metrics. No answer has to wait for it."""
        segment, count = batch.segment, len(batch.requests)
        if segment.start == 0:
            for request in batch.requests:
                self.recorder.started(waited=batch.started_at - request.submitted_at)
                if request.latest is not None:
                    self.recorder.first_prediction(seconds=request.latest.first_at - request.submitted_at)
        if batch.through_at is not None:
            # From the end of the one before: what lies between two batches is part of what a batch costs.
            self._profile.observe(segment, count, batch.through_at - batch.since)
            self.recorder.step(
                segment,
                batch=count,
                seconds=batch.through_at - batch.started_at,
                flops=count * (self._flops[segment.stop] - self._flops[segment.start]),
            )

    def learn(self, segment: Segment, seconds: float) -> None:
        """A probe took so long."""
        self._profile.observe(segment, 1, seconds)

    # Figures

    def state(self, *, draining: bool) -> EngineState:
        """Limits, load and profile."""
        routes = cheapest_routes(self._segments, partial(self._profile.expected, batch=1), 0, self._tree.leaves)
        return EngineState(
            settings=self.settings,
            runner=self.runner.name,
            memory_bytes=self._memory_bytes,
            active=self._pool.capacity - self._pool.available,
            admitted=len(self.ledger),
            waiting=self.ledger.queues.waiting,
            max_batch=self._max_batch,
            straggle=self._profile.straggle,
            draining=draining,
            ensemble_size_allowed=self.ensemble_size_allowed(),
            latencies=tuple(seconds for seconds, _ in routes[1:]),
            profile=tuple(self._profile.describe(Segment(leaf)) for leaf in range(self._tree.leaves)),
        )

    def ensemble_size_allowed(self) -> int:
        """See `EngineState.ensemble_size_allowed`."""
        return sum(
            self._seconds_until(size, arriving=1) <= self.settings.reference_deadline
            for size in self._tree.ensemble_sizes
        )

    def _seconds_until(self, size: int, *, arriving: int = 0) -> float:
        return seconds_until(self.ledger.queues, self._profile, size, self._max_batch, arriving=arriving)

    def _full(self) -> QueueFullError:
        return QueueFullError(self._seconds_until(1 if self._pool.available else self._tree.leaves))

    def _first_leaf_at(self, request: Request, now: float) -> float:
        """When a request that arrives can have its first leaf at the earliest, in the order of priority and urgency.

        After the batch that runs and all who come before it, each at the price of the most efficient batch: who cannot
        make it in such a queue learns it now, and does not hold up those who can.
        """
        turn = self.ledger.queues.ahead_of(request.entry) + 1
        seconds = max(turn * self._profile.cheapest(Segment(0)), self._profile.expected(Segment(0), 1))
        return max(now, self._free_at if self.ledger.computing else now) + seconds

    def _end(self, requests: Sequence[Request], reason: StopReason, error: ServiceError) -> Updates:
        """End requests with what they have."""
        now = self.clock()
        for request in requests:
            if request.slot < 0:  # no work was spent on it
                self.recorder.rejected(error)
        return [(request, self.ledger.end(request, reason, error, now)) for request in requests]


def _together(requests: Sequence[Request]) -> Array:
    """The images (B, C, H, W) of a batch."""
    if len(requests) == 1:
        return requests[0].image[np.newaxis]
    return np.stack([request.image for request in requests])
