"""The engine in the process of its event loop: for tests, for other ASGI servers, and where one process is enough."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from threading import get_ident

import numpy as np
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector

from model_core.package import Package
from service.client import Admitted, Exposition, Heard, Listener, Submitted
from service.engine import Engine
from service.errors import DrainingError, EngineLostError, ServiceError, StartingError
from service.metrics import Recorder
from service.processors import processors
from service.request import Budget, Ticket
from service.runners import Runner
from service.runners.choice import choose_runner
from service.settings import Settings
from service.state import EngineState

__all__ = ["LocalEngine", "RunnerFactory", "build_engine", "make_runner", "process_registry"]

RunnerFactory = Callable[[Package, Settings], Runner]

logger = logging.getLogger(__name__)

ADMITTED = Admitted()


class LocalEngine:
    """An engine that `build` makes, in a thread, once it is started."""

    def __init__(self, build: Callable[[], Engine], recorder: Recorder, *, clock: Callable[[], float]) -> None:
        self.clock = clock
        self.recorder = recorder
        self._build = build
        self._start_failure: ServiceError | None = None
        self._engine: Engine | None = None
        self._listener: Listener = lambda heard: None
        self._here: list[tuple[Ticket, Heard]] | None = None
        """What the engine says on the loop's own thread while a request is handed over."""
        self._draining = False

    @property
    def failure(self) -> ServiceError | None:
        """See `EngineClient.failure`."""
        if self._engine is not None and self._engine.lost:
            return EngineLostError()
        return self._start_failure

    def start(self) -> None:
        """Load the steps, measure the profile and start the engine, beside the event loop."""
        self._starting = asyncio.create_task(self._start())

    async def started(self) -> None:
        """See `EngineClient.started`."""
        await asyncio.shield(self._starting)  # it goes on, whoever gives up waiting

    def attach(self, engine: Engine) -> None:
        """Serve with an engine that somebody else runs, or steps."""
        self._loop, self._thread = asyncio.get_running_loop(), get_ident()
        self._engine = engine

    def listen(self, listener: Listener) -> None:
        """See `EngineClient.listen`."""
        self._listener = listener

    def check_ready(self) -> None:
        """See `EngineClient.check_ready`."""
        if (failure := self.failure) is not None:
            raise failure.with_traceback(None)  # else each request's frames are added to those before
        if self._draining or self._running.draining:
            raise DrainingError

    def submit(self, image: NDArray[np.float32], budget: Budget, *, within: float = 0.0) -> Submitted:
        """See `EngineClient.submit`; every refusal is known at once."""
        heard = self._here = []
        try:
            ticket = self._running.submit(image, budget, self._deliver, within=within, later=self._loop.call_soon)
        finally:
            self._here = None
        if others := [(whose, news) for whose, news in heard if whose is not ticket]:
            self._loop.call_soon(self._hear, others)
        return Submitted(ticket, [ADMITTED, *(news for whose, news in heard if whose is ticket)])

    def cancel(self, ticket: Ticket) -> None:
        """See `EngineClient.cancel`."""
        self._running.cancel(ticket)

    async def snapshot(self) -> EngineState:
        """See `EngineClient.snapshot`."""
        return self._running.snapshot()

    async def exposition(self, accept: str) -> Exposition:
        """See `EngineClient.exposition`."""
        return await asyncio.to_thread(self.recorder.exposition, accept)  # many milliseconds that no answer waits for

    async def drain(self, timeout: float) -> None:
        """See `EngineClient.drain`."""
        self._draining = True
        if self._engine is not None:
            await asyncio.to_thread(self._engine.drain, timeout)

    async def close(self) -> None:
        """See `EngineClient.close`."""
        await self.started()
        if self._engine is not None:
            await asyncio.to_thread(self._engine.close)

    @property
    def _running(self) -> Engine:
        if self._engine is None:
            raise self._start_failure.with_traceback(None) if self._start_failure else StartingError()
        return self._engine

    async def _start(self) -> None:
        try:
            engine = await asyncio.to_thread(self._build)
            engine.start()
        except ServiceError as error:
            logger.critical("the model cannot be served: %s", error)
            self._start_failure = error
        except Exception as error:  # a fault of our own or of a library must not look like a start that takes long
            logger.critical("the model cannot be served", exc_info=True)
            self._start_failure = ServiceError(f"the model cannot be served: {error!r}")
        else:
            self.attach(engine)

    def _deliver(self, heard: Sequence[tuple[Ticket, Heard]]) -> None:
        """The engine's listener: called on its thread, once a step, or on the loop's for what `submit` brings about."""
        if self._here is not None and get_ident() == self._thread:
            self._here += heard
            return
        try:
            self._loop.call_soon_threadsafe(self._hear, heard)
        except RuntimeError:
            logger.warning("the event loop is closed: %d updates have no reader", len(heard))

    def _hear(self, heard: Sequence[tuple[Ticket, Heard]]) -> None:
        self._listener(heard)


def build_engine(
    package: Package,
    settings: Settings,
    recorder: Recorder,
    *,
    clock: Callable[[], float],
    runner_factory: RunnerFactory | None = None,
) -> Engine:
    """The engine that the settings describe, measured and ready to start.

    Raises:
        RunnerError: a step cannot be loaded.
        SettingsError: a limit makes no sense, or the device that was named cannot be used.
    """
    runner = (runner_factory or make_runner)(package, settings)
    return Engine(package, runner, settings=settings.engine, recorder=recorder, clock=clock)


def make_runner(package: Package, settings: Settings) -> Runner:
    """The runner that the settings name.

    Raises:
        RunnerError: a step cannot be loaded.
        SettingsError: the device that was named cannot be used.
    """
    return choose_runner(
        package,
        settings.runner,
        threads=settings.threads or processors(),
        precision=settings.precision,
        max_batch=settings.max_batch,
    )


def process_registry() -> CollectorRegistry:
    """A registry of its own with the figures of the process."""
    registry = CollectorRegistry()
    for collector in (ProcessCollector, PlatformCollector, GCCollector):
        collector(registry=registry)
    return registry
