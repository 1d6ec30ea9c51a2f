"""An API process, as its supervisor sees it."""

from __future__ import annotations

import pytest
from uvicorn import Config, Server
from uvicorn.supervisors import multiprocess

from service.worker import ApiProcess


async def app(scope: object, receive: object, send: object) -> None:
    """Never called."""


class ApiProcessThatLooks(ApiProcess):
    """One that notes what its second thread, which tells the supervisor how things are, finds."""

    found: Server | None = None

    def always_pong(self) -> None:
        """What that thread does."""
        self.found = self._server


class EndsAtOnce(Server):
    """So that the test need not end it."""

    def __init__(self, config: Config) -> None:
        super().__init__(config)
        self.should_exit = True


def test_it_is_asked_how_things_are_only_once_there_is_a_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """Else two threads may make one each, and the supervisor waits for the one that never runs."""
    monkeypatch.setattr(multiprocess, "Server", EndsAtOnce)
    process = ApiProcessThatLooks(Config(app, lifespan="off", log_config=None), [])
    process.target([])
    assert process.found is process.server
    assert process.server.started
