"""API processes that come and go while the engine process stays."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from model_core.package import Package
from service.channel.remote import RemoteEngine
from service.errors import DrainingError
from service.front import create_front
from service.lifecycle import Service
from service.request import Budget, StopReason
from service.settings import Settings
from tests.service.channel import IMAGE, Far, far_end, near_end, until

pytestmark = pytest.mark.anyio


@pytest.fixture
def far(package: Package, tmp_path: Path) -> Iterator[Far]:
    with far_end(package, tmp_path) as (far, _):
        yield far


async def test_an_app_lets_nobody_in_before_an_engine_that_is_up_has_said_so(far: Far) -> None:
    service = Service(
        Settings.model_validate({"model": far.package.root}), far.package, RemoteEngine(far.address, far.package.sha256)
    )
    app = create_front(service)
    async with app.router.lifespan_context(app):
        service.check_ready()


async def test_an_end_that_drains_alone_answers_everyone_with_what_they_have(far: Far) -> None:
    async with near_end(far) as (engine, delivery):
        with far.brake.before(1), delivery.submit(IMAGE, Budget()) as started:
            assert (await anext(aiter(started))).ensemble_size == 1
            with far.brake.before(0), delivery.submit(IMAGE, Budget()) as waiting:
                await waiting.admitted()
                await engine.drain(0.05)
                refinement = await started.answer()
                assert (refinement.ensemble_size, refinement.stop_reason) == (1, StopReason.DRAIN)
                with pytest.raises(DrainingError):
                    await waiting.answer()
        with pytest.raises(DrainingError):
            delivery.submit(IMAGE, Budget())
    await until(lambda: not far.engine.snapshot().admitted)
