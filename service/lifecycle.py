"""Lifecycle: one served model from start to shutdown, and what a request needs of it.

starting (the profile is measured)  ->  ready  ->  draining (the active requests get what they have)
                                   \\->  failed
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import Callable

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector

from model_core.package import Package
from service.delivery import Delivery
from service.engine import Engine, EngineSettings
from service.errors import DrainingError, ServiceError, StartingError
from service.images import Decoder
from service.metrics import Recorder
from service.runners import Runner
from service.runners.choice import choose_runner
from service.settings import Settings

__all__ = ["RunnerFactory", "Service", "make_runner"]

RunnerFactory = Callable[[Package, Settings], Runner]

logger = logging.getLogger(__name__)


def make_runner(package: Package, settings: Settings) -> Runner:
    """The runner that the settings name.

    Raises:
        RunnerError: a step cannot be loaded.
        SettingsError: the device that was named cannot be used.
    """
    return choose_runner(
        package,
        settings.runner,
        threads=settings.threads or _cores(),
        precision=settings.precision,
        max_batch=settings.max_batch,
    )


def _cores() -> int:
    """The processor cores that this process may use; all of the machine's where the system does not tell (macOS)."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Service:
    """A package, the engine that serves it, and the phase they are in.

    Raises:
        PackageError: the package cannot be served.
        SettingsError: no package is named, or a limit makes no sense.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        registry: CollectorRegistry | None,
        runner_factory: RunnerFactory,
        clock: Callable[[], float],
    ) -> None:
        self.settings = settings
        self.clock = clock
        self.package = Package.load(settings.package)
        self.registry = registry or process_registry()
        self.recorder = Recorder(self.package, self.registry)
        manifest = self.package.manifest
        self.decoder = Decoder(
            manifest.preprocessing,
            manifest.spec.input_shape,
            max_pixels=settings.max_pixels,
            threads=settings.decode_threads,
            max_waiting=settings.max_waiting,
        )
        self.failure: ServiceError | None = None
        """Why it could not start."""
        self._engine_settings = EngineSettings(
            max_active=settings.max_active,
            max_waiting=settings.max_waiting,
            max_batch=settings.max_batch,
            profile_seconds=settings.profile_seconds,
            keep_profile=settings.keep_profile,
            policy=settings.policy,
        )
        self._make_runner = runner_factory
        self._engine: Engine | None = None
        self._delivery: Delivery | None = None
        self._draining = False

    @property
    def engine(self) -> Engine:
        """The engine.

        Raises:
            StartingError, ServiceError: it does not run yet, or never will.
        """
        if self._engine is None:
            raise self.failure or StartingError()
        return self._engine

    @property
    def delivery(self) -> Delivery:
        """Where requests are handed in.

        Raises:
            StartingError, DrainingError, ServiceError: none can be taken now.
        """
        if self._draining:
            raise DrainingError
        if self._delivery is None:
            raise self.failure or StartingError()
        return self._delivery

    def check_ready(self) -> None:
        """Whether a request could be taken now.

        Raises:
            ServiceError: as `delivery`; DrainingError also if the engine's thread has ended by itself.
        """
        if self._draining or self.engine.draining:
            raise DrainingError

    def start(self) -> None:
        """Load the steps, measure the profile and start the engine, beside the event loop."""
        self._starting = asyncio.create_task(self._start())

    async def started(self) -> None:
        """Wait until it is ready, or has failed."""
        await self._starting

    async def drain(self) -> None:
        """Take no new requests and answer the active ones, within `drain_seconds` with what they have."""
        self._draining = True
        if self._engine is not None:
            await asyncio.to_thread(self._engine.drain, self.settings.drain_seconds)

    async def close(self) -> None:
        """Drain, and end the threads."""
        await self.started()
        await self.drain()
        self.decoder.close()
        if self._engine is not None:
            await asyncio.to_thread(self._engine.close)

    async def _start(self) -> None:
        try:
            engine = await asyncio.to_thread(self._build_engine)
            engine.start()
        except ServiceError as error:
            logger.critical("the model cannot be served: %s", error)
            self.failure = error
        except Exception as error:  # a fault of our own or of a library must not look like a start that takes long
            logger.critical("the model cannot be served", exc_info=True)
            self.failure = ServiceError(f"the model cannot be served: {error!r}")
        else:
            self._delivery = Delivery(engine)
            self._engine = engine

    def _build_engine(self) -> Engine:
        runner = self._make_runner(self.package, self.settings)
        return Engine(self.package, runner, settings=self._engine_settings, recorder=self.recorder, clock=self.clock)


def process_registry() -> CollectorRegistry:
    """A registry of its own with the figures of the process."""
    registry = CollectorRegistry()
    for collector in (ProcessCollector, PlatformCollector, GCCollector):
        collector(registry=registry)
    return registry
