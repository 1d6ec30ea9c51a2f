"""Single: HTTP and engine in one process, on one event loop and one thread beside it."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import uvicorn

from service.address import check_free
from service.app import create_app
from service.garbage import keep_for_good
from service.lifecycle import Service
from service.logs import complain
from service.protocol import server_config
from service.settings import Settings
from service.welcome import welcome

__all__ = ["Server", "serve_in_one_process"]

REFUSE_SECONDS = 2.0
"""How long requests that come after the active ones were answered are still refused, and not just cut off."""
LOOK_SECONDS = 0.1
"""Between two looks at whether a service that starts has been told to end."""
QUIET_SECONDS = 0.1
"""Nothing comes any more when so long nothing has come."""


def serve_in_one_process(settings: Settings) -> int:
    """Serve until told to end; the exit status.

    Raises:
        PackageError, SettingsError: the model cannot be served, or not at this address.
    """
    app = create_app(settings)
    check_free(settings.host, settings.port)
    service: Service = app.state.service
    with suppress(KeyboardInterrupt):  # uvicorn passes Ctrl-C on once everyone is answered
        Server(server_config(app, settings), service).run()
    return 0 if service.failure is None else complain(service.failure, 1)


class Server(uvicorn.Server):
    """uvicorn that says when it is ready, and that answers the active requests before it closes anything.

    uvicorn by itself first waits for open connections and only then tells the app to stop; requests without a deadline
    would go on to their end.
    """

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self.service = service

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Within the block, SIGTERM and Ctrl-C end the server; uvicorn raises what came again where the block ends."""
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # there it would kill a process that has ended as it was told to
        with super().capture_signals():
            yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, so that probes are answered, then wait for the model."""
        await super().startup(sockets)
        starting = asyncio.ensure_future(self.service.started())
        while not starting.done():
            await asyncio.wait([starting], timeout=LOOK_SECONDS)
            if self.should_exit:  # nobody is served yet, and the thread that loads and measures cannot be stopped
                os._exit(0)
        if self.service.failure is not None:
            self.should_exit = True
            return
        keep_for_good()
        welcome(self.service.package, self.servers[0].sockets[0])

    async def on_tick(self, counter: int) -> bool:
        """Whether to end, ten times a second: also when the engine has."""
        return await super().on_tick(counter) or self.service.failure is not None

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Answer who waits, then close."""
        await self.service.drain()
        await self._refuse_unread()
        await super().shutdown(sockets)

    async def _refuse_unread(self) -> None:
        """Let requests that still lie in the sockets be told 503, until a while has brought none.

        uvicorn would close their connections, of which it does not know that something came.
        """
        state, until = self.server_state, time.monotonic() + REFUSE_SECONDS
        seen = -1
        while state.connections and state.total_requests != seen and time.monotonic() < until:
            seen = state.total_requests
            await asyncio.sleep(QUIET_SECONDS)
