"""The engine: one thread around a `Core`, and the lock that lets requests come from any other.

    step()  = give up, schedule, compute, advance, book: one batch
    probe() = measure a step again that was refused, while there is nothing else to do

Everything but the computation happens under one lock, briefly, so `submit` and `cancel` may come from any thread, and
every request gets exactly one end: a refinement with a stop reason, or a failure if it never got a leaf.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from functools import partial

from model_core.package import Package
from service.core import Core, Updates
from service.errors import DrainingError
from service.ledger import Batch, Listener, tell
from service.metrics import Recorder
from service.niceness import stand_back
from service.profile import Profile
from service.request import Budget, Ticket
from service.runners.base import Array, Runner
from service.scheduler import Policy
from service.state import EngineSettings, EngineState

__all__ = ["PAUSE", "Engine", "EngineSettings", "EngineState", "Listener"]

logger = logging.getLogger(__name__)

HOPELESS, HOPELESS_SECONDS = 3, 2.0
"""So many batches that fail in a row, over so long: a GPU that has lost its context fails every one from then on, and
only a new process can use it again."""


Later = Callable[[Callable[[], None]], object]
"""Sees to it that something is called soon."""


def _at_once(call: Callable[[], None]) -> None:
    call()


PAUSE = 0.001
"""Seconds after which a policy that wants to run nothing of what waits is asked again, if nothing changes before."""


class Engine:
    """Serves one package with one runner.

    Without a `profile` it measures one on construction, which takes `settings.profile_seconds`: an engine that exists
    can serve. Tests call `step` and `probe` by hand; a service calls `start`, and `close` at the end.

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
        clock: Callable[[], float] = time.monotonic,
        profile: Profile | None = None,
        policy: Policy | None = None,
    ) -> None:
        self.settings = settings
        self.recorder = recorder
        self.clock = clock
        self._core = Core(
            package, runner, settings=settings, recorder=recorder, clock=clock, profile=profile, policy=policy
        )
        self._on_cpu = runner.name.endswith("-cpu")
        self._draining = False
        self._closed = False
        self._lost = False
        self._failures = 0
        """Batches in a row."""
        self._failing_since = 0.0
        self._hopeless = False
        self._busy = False
        """Somebody computes, on whichever thread."""
        self._news = self._known = 0
        """How often something has changed, and had when there was nothing to run."""
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None
        recorder.watch(self.snapshot)

    def start(self) -> None:
        """Serve from a thread of its own."""
        assert self._thread is None
        self._thread = threading.Thread(target=self._serve, name="hne-engine", daemon=True)
        self._thread.start()

    def submit(
        self, image: Array, budget: Budget, listener: Listener, *, within: float = 0.0, later: Later = _at_once
    ) -> Ticket:
        """Admit a normalised image (C, H, W). Its updates go to `listener`, possibly before this returns.

        A request that could get no leaf before its deadline, with all that wait before it, fails at once. One that has
        the engine to itself is computed before this returns as far as that is expected to take less than `within`
        seconds, if a CPU does that: to change threads twice takes as long as a small step. It is booked `later`, since
        after a step the processor's caches hold nothing of the books, and the answer need not wait for them.

        Raises:
            BudgetError: the budget allows not even the first leaf, or is none.
            QueueFullError: every waiting place is taken.
            DrainingError: the engine shuts down.
        """
        with self._changed:
            if self._draining:
                raise DrainingError
            ticket, updates = self._core.admit(image, budget, listener)
            until, batch = self.clock() + within, None
            if within and self._on_cpu and not self._busy and not self._failures:
                batch = self._alone(until)
                self._busy = batch is not None
            self._tell(updates)
        if batch is not None:
            self._work(lambda: self._begin(batch, until, later))
        return ticket

    def cancel(self, ticket: Ticket) -> None:
        """Forget a request: it hears nothing more, and its slot is free when the step that is running ends.

        Harmless after its end.
        """
        with self._changed:
            self._core.cancel(ticket)
            self._tell([])

    def drain(self, timeout: float) -> None:
        """Admit nobody any more, and answer everyone: who is not done after `timeout` seconds gets what it has."""
        with self._changed:
            self._draining = True
            self._changed.wait_for(lambda: not self._core.ledger, timeout)
            self._tell(self._core.end_all())

    def close(self) -> None:
        """Answer everyone with what they have, end the thread and close the runner."""
        with self._changed:
            self._draining = self._closed = True
            self._tell(self._core.end_all())
            self._changed.wait_for(lambda: not self._busy)
        if self._thread is not None:
            self._thread.join()
        self._core.runner.close()

    @property
    def draining(self) -> bool:
        """Whether it has stopped admitting: shut down, or lost."""
        return self._draining

    @property
    def lost(self) -> bool:
        """Whether its thread has ended by itself: for a fault of our own, or because nothing can be computed."""
        return self._lost

    def snapshot(self) -> EngineState:
        """Limits, load and profile."""
        with self._changed:
            return self._core.state(draining=self._draining)

    def step(self) -> bool:
        """Schedule, run and deliver one batch. False if there was nothing to run, or a batch is being run."""
        return self._take() and self._work(self._step)

    def probe(self) -> bool:
        """Run a step that was refused, for nobody, to learn what it takes now. False if somebody waits, or none was."""
        return self._take() and self._work(self._probe)

    def _take(self) -> bool:
        """Whether nobody else computes: then it is our turn, until `_work` is through."""
        with self._changed:
            taken, self._busy = not self._busy, True
        return taken

    def _work(self, work: Callable[[], bool]) -> bool:
        try:
            return work()
        finally:
            with self._changed:
                self._busy = False
                self._wake()

    def _alone(self, until: float) -> Batch | None:
        """The next batch of the only request there is, if it is expected to be through by then."""
        return self._core.schedule(within=until - self.clock()) if len(self._core.ledger) == 1 else None

    def _begin(self, batch: Batch | None, until: float, later: Later) -> bool:
        while batch is not None:
            self._run(batch)
            later(partial(self._book, batch))
            with self._changed:
                batch = self._alone(until)
        return True

    def _step(self) -> bool:
        with self._changed:
            if given_up := self._core.give_up():
                self._tell(given_up)
            batch = self._core.schedule()
            self._known = self._news
        if batch is None:
            return False
        self._run(batch)
        self._book(batch)
        return True

    def _run(self, batch: Batch) -> None:
        try:
            self._core.compute(batch)
        except Exception as error:  # whatever it was: it ends this batch, not the engine
            logger.exception("step %d failed for %d requests", batch.segment.start, len(batch.requests))
            if not self._failures:
                self._failing_since = self.clock()
            self._failures += 1
            self._hopeless = self._failures >= HOPELESS and self.clock() >= self._failing_since + HOPELESS_SECONDS
            with self._changed:
                self._tell(self._core.fail(batch, error))
        else:
            self._failures = 0
            with self._changed:
                self._tell(self._core.advance(batch))

    def _book(self, batch: Batch) -> None:
        with self._changed:
            self._core.book(batch)

    def _probe(self) -> bool:
        with self._changed:
            segment = None if self._core.ledger else self._core.probes.next()
        if segment is None:
            return False
        if (seconds := self._core.probes.measure(segment)) is not None:
            self._failures = 0
            with self._changed:
                self._core.learn(segment, seconds)
        return True

    def _serve(self) -> None:
        try:
            if self._on_cpu:  # a GPU would wait for it
                stand_back()
            while self._await_work():
                if not (self.step() or self.probe()):
                    self._pause()
                if self._hopeless:
                    logger.critical("%d batches failed in a row: nothing can be computed any more", self._failures)
                    break
        finally:  # also if a fault of our own ends the thread: nobody is left waiting, nobody else is admitted
            with self._changed:
                self._draining, self._lost = True, not self._closed
                self._tell(self._core.end_all())

    def _await_work(self) -> bool:
        with self._changed:
            self._changed.wait_for(lambda: self._closed or (self._has_work and not self._busy))
            return not self._closed

    def _pause(self) -> None:
        """Nothing of what waits is worth running now."""
        with self._changed:
            if self._core.ledger.queues and self._known == self._news:
                self._changed.wait(PAUSE)

    def _tell(self, updates: Updates) -> None:
        tell(updates)
        self._news += 1
        self._wake()

    def _wake(self) -> None:
        """Wake the thread if there is work and nobody at it, and who waits for the end."""
        if self._draining or (self._has_work and not self._busy):
            self._changed.notify_all()

    @property
    def _has_work(self) -> bool:
        return bool(self._core.ledger.queues or self._core.probes)
