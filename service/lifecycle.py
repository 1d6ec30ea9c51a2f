"""Lifecycle: one served model from start to shutdown, and what a request needs of it.

starting (the profile is measured)  ->  ready  ->  draining (the active requests get what they have)
                                   \\->  failed
"""

from __future__ import annotations

from collections.abc import Callable

from model_core.package import Package
from service.client import EngineClient, RequestRecorder
from service.delivery import Delivery
from service.errors import ServiceError
from service.images import Decoder
from service.lag import LoopLag
from service.reserve import Reserve
from service.room import Room
from service.settings import Settings
from service.state import FrontState
from service.strain import Strain
from service.turns import Turns
from service.window import Window

__all__ = ["Service"]

ANSWERS = 256
"""From which it follows what a first leaf takes."""
USUAL = 0.9
"""The quantile of it that a client is told."""


class Service:
    """A package and the engine that serves it, on one event loop."""

    def __init__(self, settings: Settings, package: Package, engine: EngineClient) -> None:
        self.settings = settings
        self.package = package
        self.engine = engine
        manifest = package.manifest
        self.decoder = Decoder(
            manifest.preprocessing,
            manifest.spec.input_shape,
            max_pixels=settings.max_pixels,
            threads=settings.decode_threads,
            max_waiting=settings.max_waiting,
        )
        self.room = Room(settings.max_upload_bytes)
        self.lag = LoopLag()
        self.reserve = Reserve(settings.reply_ms / 1e3, engine.clock)
        self.strain = Strain(manifest.table, engine.clock)
        self.turns = Turns(engine.clock)
        self.firsts = Window(ANSWERS, USUAL, empty=0.0)
        """Seconds from a request's arrival to its first leaf, of the last answers; 0 before there are any."""
        self._delivery = Delivery(engine)
        engine.recorder.watch_front(self._state)

    def _state(self) -> FrontState:
        return FrontState(
            lag=self.lag.seconds,
            reserve=self.reserve.refining(),
            bearable=self.strain.bearable,
            decoding=self.decoder.waiting,
            upload_bytes=self.room.taken,
        )

    @property
    def clock(self) -> Callable[[], float]:
        """Monotonic seconds, the engine's own."""
        return self.engine.clock

    @property
    def recorder(self) -> RequestRecorder:
        """Where the figures go."""
        return self.engine.recorder

    @property
    def failure(self) -> ServiceError | None:
        """Why nobody is served."""
        return self.engine.failure

    @property
    def delivery(self) -> Delivery:
        """Where requests are handed in.

        Raises:
            StartingError, DrainingError, ServiceError: none can be taken now.
        """
        self.check_ready()
        return self._delivery

    def check_ready(self) -> None:
        """Whether a request could be taken now.

        Raises:
            StartingError, DrainingError, ServiceError: none can.
        """
        self.engine.check_ready()

    def start(self) -> None:
        """Start the engine beside the event loop."""
        self.lag.start()
        self.engine.start()

    async def started(self) -> None:
        """Wait until it is ready, or has failed."""
        await self.engine.started()

    async def drain(self) -> None:
        """Take no new requests and answer the active ones, within `drain_seconds` with what they have."""
        await self.engine.drain(self.settings.drain_seconds)

    async def close(self) -> None:
        """Drain, and end the threads."""
        await self.drain()
        self.lag.stop()
        self.decoder.close()
        await self.engine.close()
