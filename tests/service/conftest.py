"""Fixtures of the service's tests: the tiny package behind an engine stepped by hand, and behind the real app."""

from __future__ import annotations

import io
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx
import numpy as np
import pytest
from fastapi import FastAPI
from PIL import Image

import service.submission
from model_core.package import Package
from model_core.tree import Segment
from service.app import create_app
from service.local import make_runner
from service.runners import Array, Rows, Runner
from service.runners.onnx import OnnxRunner
from service.settings import Settings
from tests.service.engines import Bench, MakeBench


class Brake:
    """A real runner that can be held before a step, or fail: a machine that stalls, or breaks. It has steps only, so
    that this can be anywhere."""

    def __init__(self, runner: Runner) -> None:
        self._runner = runner
        self._held_from: int | None = None
        self._broken_from: int | None = None
        self._released = threading.Event()
        self.name = runner.name
        self.configuration = runner.configuration
        self.segments = tuple(segment for segment in runner.segments if segment.width == 1)
        self.max_batch = runner.max_batch
        self.pads = runner.pads
        self.keeping_costs = runner.keeping_costs

    @contextmanager
    def before(self, step: int) -> Iterator[None]:
        """Within the block, no step from `step` on begins."""
        self._released.clear()
        self._held_from = step
        try:
            yield
        finally:
            self._held_from = None
            self._released.set()

    @contextmanager
    def broken_from(self, step: int) -> Iterator[None]:
        """Within the block, every step from `step` on fails."""
        self._broken_from = step
        try:
            yield
        finally:
            self._broken_from = None

    def reserve(self, slots: int) -> int:
        return self._runner.reserve(slots)

    def run(self, segment: Segment, rows: Rows, images: Array | None = None, *, until: int | None = None) -> Array:
        if self._held_from is not None and segment.start >= self._held_from:
            assert self._released.wait(30), "the test never let go"
        if self._broken_from is not None and segment.start >= self._broken_from:
            raise RuntimeError("the device is gone")
        return self._runner.run(segment, rows, images, until=until)

    def close(self) -> None:
        self._runner.close()


@dataclass(frozen=True)
class Served:
    """A started app, a client that talks to it, and the brake of its runner."""

    app: FastAPI
    client: httpx.AsyncClient
    brake: Brake

    def metric(self, name: str, **labels: str) -> float | None:
        """A sample of the app's registry."""
        value: float | None = self.app.state.service.recorder.registry.get_sample_value(name, labels)
        return value


Serving = Callable[..., AbstractAsyncContextManager[Served]]


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def package(tiny_package: Path) -> Package:
    return Package.load(tiny_package)


@pytest.fixture(scope="session")
def independent_package(tmp_path_factory: pytest.TempPathFactory) -> Package:
    """Two networks that share nothing, so that both start from the image."""
    from tests.models import calibrated_model, exported

    model = calibrated_model("hne_tiny", branching=(2, 1, 1, 1, 1))
    return Package.load(exported(model, tmp_path_factory.mktemp("package") / "independent"))


@pytest.fixture(scope="session")
def make(package: Package) -> MakeBench:
    """`make(max_active=3)`: an engine with these limits, stepped by hand."""
    runner = OnnxRunner(package)
    return lambda **options: Bench(package, runner, **options)


@pytest.fixture
def bench(make: MakeBench) -> Bench:
    return make()


@pytest.fixture(scope="session")
def photo() -> bytes:
    """A JPEG of the tiny model's input size."""
    pixels = np.random.default_rng(7).integers(0, 256, (32, 32, 3), np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=90)
    return file.getvalue()


@pytest.fixture(scope="session", autouse=True)
def on_its_own_thread() -> Iterator[None]:
    """The engine computes on its own thread unless a test says otherwise: a held step must not hold the loop."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(service.submission, "QUICK_SECONDS", 0.0)
        yield


@pytest.fixture(scope="session")
def serving(tiny_package: Path) -> Serving:
    """`async with serving(max_pixels=...) as served`: an app of one's own with these settings."""

    @asynccontextmanager
    async def run(**settings: object) -> AsyncIterator[Served]:
        brakes = []

        def factory(package: Package, settings: Settings) -> Runner:
            brakes.append(Brake(make_runner(package, settings)))
            return brakes[0]

        values = {"model": tiny_package, "runner": "cpu", "threads": 1, "profile_seconds": 0.01, **settings}
        app = create_app(Settings.model_validate(values), runner_factory=factory)
        async with app.router.lifespan_context(app):
            await app.state.service.started()
            transport = httpx.ASGITransport(app, raise_app_exceptions=False)
            async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
                yield Served(app, client, brakes[0])

    return run


@pytest.fixture(scope="module")
async def served(serving: Serving, anyio_backend: str) -> AsyncIterator[Served]:
    """One app for all tests of a module that do not make it stall."""
    async with serving(max_body_bytes=200_000, max_pixels=1_000_000, max_images=4) as served:
        yield served


@pytest.fixture
def client(served: Served) -> httpx.AsyncClient:
    return served.client
