"""`hne-serve`: settings from flags and environment, one server process, a graceful end on SIGTERM or Ctrl-C."""

from __future__ import annotations

import logging
import math
import socket
import sys
from collections.abc import Sequence

import uvicorn
from fastapi import FastAPI

from model_core.errors import ModelError
from service.app import create_app
from service.errors import ServiceError
from service.lifecycle import Service
from service.settings import Settings, load_settings

__all__ = ["Server", "main"]


class Server(uvicorn.Server):
    """uvicorn that says when it is ready, and that answers the active requests before it closes anything.

    uvicorn by itself first waits for open connections and only then tells the app to stop; requests without a deadline
    would go on to their end.
    """

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self.service = service

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Listen, so that probes are answered, then wait for the model."""
        await super().startup(sockets)
        await self.service.started()
        if self.service.failure is not None:
            self.should_exit = True
            return
        manifest = self.service.package.manifest
        host, port = self.servers[0].sockets[0].getsockname()[:2]
        url = f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
        model = f"{manifest.name} {manifest.version}, {manifest.spec.tree.leaves} networks,"
        print(f"{model} is ready at {url} (playground; API at {url}/docs)")
        print(f"Try: curl -F file=@photo.jpg '{url}/predict?deadline_ms=50'", flush=True)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Answer who waits, then close."""
        await self.service.drain()
        await super().shutdown(sockets)


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point of `hne-serve`. Exits with 2 for wrong settings and with 1 if the model cannot be served."""
    try:
        settings = load_settings(sys.argv[1:] if arguments is None else arguments)
        _log(settings)
        app = create_app(settings)
    except (ServiceError, ModelError) as error:
        sys.exit(_complain(error, 2))
    server = _server(app, settings)
    server.run()
    if server.service.failure is not None:
        sys.exit(_complain(server.service.failure, 1))


def _server(app: FastAPI, settings: Settings) -> Server:
    config = uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        log_config=None,
        access_log=False,  # service.arrival has one line per request, with its id
        server_header=False,
        timeout_graceful_shutdown=math.ceil(settings.drain_seconds),
    )
    return Server(config, app.state.service)


def _log(settings: Settings) -> None:
    logging.basicConfig(
        level=settings.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s %(message)s", stream=sys.stderr
    )


def _complain(error: Exception, status: int) -> int:
    print(f"hne-serve: {error}", file=sys.stderr)
    return status


if __name__ == "__main__":
    main()
