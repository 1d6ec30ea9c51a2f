"""Both ends of a channel for tests: a real engine whose runner can be held, and what reaches it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import ExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

from prometheus_client import CollectorRegistry

from model_core.package import Package
from service.channel.host import Host
from service.channel.remote import RemoteEngine
from service.delivery import Delivery
from service.engine import Engine, EngineSettings
from service.metrics import Recorder
from service.profile import Profile, Shape
from service.runners.onnx import OnnxRunner
from tests.service.conftest import Brake
from tests.service.engines import STEP, images

__all__ = ["IMAGE", "PATIENCE", "Far", "far_end", "near_end", "until"]

IMAGE = images(1)[0]
PATIENCE = 60
"""Seconds after which a test gives up."""


@dataclass(frozen=True)
class Far:
    """A running engine whose runner can be held, and where it is to be reached."""

    engine: Engine
    brake: Brake
    host: Host
    package: Package
    address: str

    def metric(self, name: str, **labels: str) -> float | None:
        value: float | None = self.engine.recorder.registry.get_sample_value(name, labels)
        return value


@contextmanager
def far_end(package: Package, folder: Path, *, max_waiting: int = 8) -> Iterator[tuple[Far, ExitStack]]:
    """A far end, and what ends its host."""
    brake = Brake(OnnxRunner(package))
    recorder = Recorder(package, CollectorRegistry())
    settings = EngineSettings(max_waiting=max_waiting, max_batch=32)
    tree = package.manifest.spec.tree
    blocks = {tree.entry_block(leaf) for leaf in range(tree.leaves)}
    # A batch that costs no more than one request, so that who waits together runs together.
    profile = Profile(tree, {Shape(block, 1): {1: [STEP], 32: [STEP]} for block in blocks}, max_batch=32)
    engine = Engine(package, brake, settings=settings, recorder=recorder, profile=profile)
    engine.start()
    address = f"ipc://{folder / 'engine'}"
    try:
        with ExitStack() as stack:
            host = stack.enter_context(Host(engine, recorder, package, address))
            yield Far(engine, brake, host, package, address), stack
    finally:
        engine.close()


@asynccontextmanager
async def near_end(far: Far) -> AsyncIterator[tuple[RemoteEngine, Delivery]]:
    engine = RemoteEngine(far.address, far.package.sha256)
    delivery = Delivery(engine)
    engine.start()
    try:
        async with asyncio.timeout(PATIENCE):
            await engine.started()
        yield engine, delivery
    finally:
        await engine.close()


async def until(condition: Callable[[], bool]) -> None:
    """Look until it is so; at times only, since who is looked at needs Python's lock for it."""
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0.001)
