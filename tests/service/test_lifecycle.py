"""Starting and ending: whatever goes wrong shows, at once and for good, and nothing is left behind."""

import logging
from pathlib import Path

import httpx
import pytest

from model_core.package import Package
from service.app import create_app
from service.errors import DrainingError, ServiceError, SettingsError
from service.runners import Runner
from service.settings import Settings

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize("error", [SettingsError("no such device"), OSError("disk gone"), MemoryError()])
async def test_a_start_that_fails_is_logged_and_never_ready(
    tiny_package: Path, caplog: pytest.LogCaptureFixture, error: Exception
) -> None:
    def factory(package: Package, settings: Settings) -> Runner:
        raise error

    app = create_app(Settings.model_validate({"model": tiny_package}), runner_factory=factory)
    async with app.router.lifespan_context(app):
        await app.state.service.started()
        assert "the model cannot be served" in caplog.text
        assert [record.levelno for record in caplog.records] == [logging.CRITICAL]
        assert isinstance(app.state.service.failure, ServiceError)
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with httpx.AsyncClient(transport=transport, base_url="http://test") as client:
            for path in ("/readyz", "/v1/models"):
                response = await client.get(path)
                assert (response.status_code, response.json()["title"]) == (500, "The service failed")


async def test_an_app_that_ends_by_a_fault_closes_its_engine_too(tiny_package: Path) -> None:
    app = create_app(Settings.model_validate({"model": tiny_package, "profile_seconds": 0.01}))

    async def serve_until_a_fault() -> None:
        async with app.router.lifespan_context(app):
            await app.state.service.started()
            raise RuntimeError("a fault")

    with pytest.raises(RuntimeError, match="a fault"):
        await serve_until_a_fault()
    with pytest.raises(DrainingError):
        app.state.service.check_ready()
