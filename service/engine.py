"""The engine: one thread that turns admitted requests into refining predictions.

    step()  = schedule (which segment, which requests), run (gather, compute, add up), deliver (tell the listeners)
    probe() = measure a step again that was refused, while there is nothing else to do

Requests that stand at the same ensemble size share a batch, whenever they arrived. Everything but the computation
happens under one lock, briefly, so `submit` and `cancel` may come from any thread, and every request gets exactly one
end: a refinement with a stop reason, or a failure if it never got a leaf.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence

import numpy as np

from model_core.package import Package
from model_core.tree import Segment
from service.errors import DeadlineMissedError, DrainingError, QueueFullError, RunnerError, ServiceError
from service.ledger import Batch, Ledger, Listener, Request, tell
from service.metrics import Recorder
from service.policies import parse_policy
from service.probes import Probes
from service.profile import Profile, measure_profile
from service.request import Budget, Refinement, StopReason, Ticket, Update
from service.runners.base import Array, Runner
from service.scheduler import Policy, Situation, by_start, expired, seconds_until
from service.slots import IMAGE, SlotPool, kept_shapes
from service.state import EngineSettings, EngineState

__all__ = ["Engine", "EngineSettings", "EngineState", "Listener"]

logger = logging.getLogger(__name__)


class Engine:
    """Serves one package with one runner.

    Without a `profile` it measures one on construction, which takes `settings.profile_seconds`: an engine that exists
    can serve. Tests call `step` and `probe` by hand; a service calls `start`, and `close` at the end.

    Raises:
        RunnerError: a step fails while the profile is measured.
        SettingsError: there is no such policy.
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
        self._policy = policy or parse_policy(settings.policy, manifest.table)
        self._segments = by_start(runner.segments, self._tree.leaves)
        self._profile = profile or measure_profile(
            runner,
            self._tree,
            self._input_shape,
            max_batch=self._max_batch,
            clock=clock,
            seconds=settings.profile_seconds,
        )
        self._probes = Probes(runner, self._tree, self._input_shape, clock)
        shapes = kept_shapes(self._tree, runner.shapes, self._input_shape)
        self._pool = SlotPool(settings.max_active, shapes, manifest.spec.classes)
        self._reads = [self._tree.entry_block(leaf) - 1 for leaf in range(self._tree.leaves)]  # each step's level
        self._ledger = Ledger(self._flops, self._pool)
        self._steps_run = 0
        self._draining = False
        self._closed = False
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        recorder.watch(
            queue_limit=settings.max_waiting,
            queue_depth=lambda: len(self._ledger.queues[0]),
            inflight=lambda: len(self._ledger),
            ensemble_size_allowed=self._ensemble_size_allowed,
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
        if image.shape != self._input_shape:
            raise ValueError(f"the model takes images of shape {self._input_shape}, got {image.shape}")
        with self._changed:
            if self._draining:
                raise DrainingError
            if len(self._ledger.queues[0]) >= self.settings.max_waiting:
                raise QueueFullError(self._seconds_until(1 if self._pool.available else self._tree.leaves))
            ticket = self._ledger.admit(image, budget, listener, self.clock())
            self._changed.notify_all()
        return ticket

    def cancel(self, ticket: Ticket) -> None:
        """Forget a request: it hears nothing more, and its slot is free when the step that is running ends.

        Harmless after its end.
        """
        with self._changed:
            self._ledger.cancel(ticket)
            self._changed.notify_all()

    def drain(self, timeout: float) -> None:
        """Admit nobody any more, and answer everyone: who is not done after `timeout` seconds gets what it has."""
        with self._changed:
            self._draining = True
            self._changed.wait_for(lambda: not self._ledger, timeout)
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

    @property
    def draining(self) -> bool:
        """Whether it has stopped admitting: shut down, or its thread ended by itself."""
        return self._draining

    def snapshot(self) -> EngineState:
        """Limits, load and profile."""
        with self._changed:
            return EngineState(
                settings=self.settings,
                runner=self._runner.name,
                memory_bytes=self._pool.memory_bytes,
                active=self._pool.capacity - self._pool.available,
                waiting=len(self._ledger.queues[0]),
                draining=self._draining,
                ensemble_size_allowed=self._ensemble_size_allowed(),
                profile=tuple(self._profile.describe(Segment(leaf)) for leaf in range(self._tree.leaves)),
            )

    def step(self) -> bool:
        """Schedule, run and deliver one batch. False if there was nothing to run."""
        with self._changed:
            batch = self._schedule()
        if batch is None:
            return False
        try:
            self._run(batch)
        except Exception as error:  # whatever it was: it ends this batch, not the engine
            logger.exception("step %d failed for %d requests", batch.segment.start, len(batch.requests))
            with self._changed:
                self._fail(batch, error)
        else:
            with self._changed:
                self._deliver(self._advance(batch))
        return True

    def probe(self) -> bool:
        """Run a step that was refused, for nobody, to learn what it takes now. False if somebody waits, or none was."""
        with self._changed:
            segment = None if self._ledger else self._probes.next()
        if segment is None:
            return False
        if (seconds := self._probes.measure(segment)) is not None:
            with self._changed:
                self._profile.observe(segment, 1, seconds)
        return True

    def _serve(self) -> None:
        try:
            while self._await_work():
                self.step() or self.probe()
        finally:  # also if a fault of our own ends the thread: nobody is left waiting, nobody else is admitted
            with self._changed:
                self._draining = True
                self._answer_everyone()

    def _await_work(self) -> bool:
        with self._changed:
            self._changed.wait_for(lambda: self._ledger.queues or self._probes or self._closed)
            return not self._closed

    # Schedule

    def _schedule(self) -> Batch | None:
        now = self.clock()
        self._give_up(now)
        situation = Situation(
            queues=self._ledger.queues,
            segments=self._segments,
            costs=self._profile,
            now=now,
            max_batch=self._max_batch,
            free_slots=self._pool.available,
            steps_run=self._steps_run,
            admitted=self._ledger.admitted,
        )
        decision = self._policy(situation)
        if decision is None:
            return None
        batch = self._ledger.begin(decision, now)
        if batch.segment.start == 0:
            for request in batch.requests:
                self.recorder.started(waited=now - request.submitted_at)
        return batch

    def _give_up(self, now: float) -> None:
        """End those whose next step could not end in time, before any more work goes into them."""
        if late := [self._ledger.of(entry) for entry in expired(self._ledger.queues, self._profile, now)]:
            for size in {request.size for request in late}:
                self._probes.refused(Segment(size))
            self._end(late, StopReason.DEADLINE, DeadlineMissedError())

    # Run

    def _run(self, batch: Batch) -> None:
        """Compute a segment and keep its results."""
        logits, activations = self._runner.run(batch.segment, self._inputs(batch))
        for block, activation in activations.items():
            self._pool.store(block, batch.rows, activation)
        self._pool.add_logits(batch.rows, logits)

    def _inputs(self, batch: Batch) -> Array:
        if batch.segment.start:
            return self._pool.gather(self._reads[batch.segment.start], batch.rows)
        images = np.stack([request.image for request in batch.requests])
        self._pool.store(IMAGE, batch.rows, images)
        return images

    # Deliver

    def _advance(self, batch: Batch) -> list[tuple[Request, Update]]:
        """Everyone's next refinement, and with it their place in the next queue or their end."""
        now, size, count = self.clock(), batch.segment.stop, len(batch.requests)
        seconds, flops = now - batch.started_at, self._flops[size] - self._flops[batch.segment.start]
        self._steps_run += 1
        self._profile.observe(batch.segment, count, seconds)
        self._probes.ran(batch.segment)
        self.recorder.step(ensemble_size=size, batch=count, seconds=seconds, flops=count * flops)
        probabilities = self._pool.probabilities(batch.rows, size, self._temperatures[size])
        confidences = probabilities.max(axis=1).tolist()
        next_end = now + self._profile.expected(Segment(size), 1) if size < self._tree.leaves else now
        updates: list[tuple[Request, Update]] = []
        for position, request in self._ledger.release(batch):
            if request.latest is None:
                self.recorder.first_prediction(seconds=now - request.submitted_at)
            refinement = Refinement(
                ensemble_size=size,
                flops=self._flops[size],
                probabilities=probabilities[position],
                stop_reason=request.stop_reason(size, confidences[position], next_end),
                started_at=request.started_at,
                first_at=request.latest.first_at if request.latest else now,
                at=now,
            )
            self._ledger.advance(request, refinement)
            updates.append((request, refinement))
        if any(request.latest.stop_reason is StopReason.DEADLINE for request, _ in updates if request.latest):
            self._probes.refused(Segment(size))
        return updates

    def _fail(self, batch: Batch, error: Exception) -> None:
        """A step failed: who has a leaf is answered with it, the others with the error."""
        if not isinstance(error, ServiceError):
            error = RunnerError(self._package.step(batch.segment.start), repr(error))
        self._end([request for _, request in self._ledger.release(batch)], StopReason.ERROR, error)

    def _answer_everyone(self) -> None:
        self._end(self._ledger.requests(), StopReason.DRAIN, DrainingError())

    def _end(self, requests: Sequence[Request], reason: StopReason, error: ServiceError) -> None:
        """End requests with what they have."""
        now = self.clock()
        for request in requests:
            if request.slot < 0:  # no work was spent on it
                self.recorder.rejected(error)
        self._deliver([(request, self._ledger.end(request, reason, error, now)) for request in requests])

    def _deliver(self, updates: Sequence[tuple[Request, Update]]) -> None:
        tell(updates)
        self._changed.notify_all()

    # Figures

    def _seconds_until(self, size: int, *, arriving: int = 0) -> float:
        return seconds_until(self._ledger.queues, self._profile, size, self._max_batch, arriving=arriving)

    def _ensemble_size_allowed(self) -> int:
        with self._changed:
            return sum(
                self._seconds_until(size, arriving=1) <= self.settings.reference_deadline
                for size in self._tree.ensemble_sizes
            )
