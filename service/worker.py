"""Worker: one API process and its app. It talks to the engine process and loads no runner."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import threading
from multiprocessing import parent_process
from socket import socket

from fastapi import FastAPI
from uvicorn.config import STARTUP_FAILURE
from uvicorn.supervisors.multiprocess import Process

from model_core.errors import ModelError, PackageError
from model_core.package import Package
from service.channel.remote import RemoteEngine
from service.front import create_front
from service.garbage import keep_for_good
from service.lifecycle import Service
from service.logs import configure_logging
from service.settings import Settings
from service.title import API, call_this_process

__all__ = ["ApiProcess", "create_worker"]

logger = logging.getLogger(__name__)

LAST_ANSWERS_SECONDS = 0.5
"""For those who wait as this process finds that it cannot serve any more."""


class ApiProcess(Process):
    """uvicorn's, with one server.

    uvicorn makes the server for whoever asks for it first: the thread that serves, or the one that tells the
    supervisor whether it does. If both ask at once, each makes one, and the process may say for ever that it does not.
    """

    def target(self, sockets: list[socket] | None = None) -> None:
        """What the process does."""
        self._server = self.server
        super().target(sockets)


def create_worker(settings: Settings, address: str, sha256: str) -> FastAPI:
    """The app of an API process whose engine is at a ZeroMQ address and serves the package of this digest.

    Where the package was changed since the service started the process ends with `STARTUP_FAILURE` before it serves,
    and so does the service, unless it only tried to replace one: what is served is one model.
    """
    call_this_process(API)
    configure_logging(settings)
    for everyones in (signal.SIGINT, signal.SIGHUP):  # they reach every process; the supervisor says who ends when
        signal.signal(everyones, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, name="hne-parent", daemon=True).start()
    try:
        package = Package.load(settings.package)
        if package.sha256 != sha256:
            raise PackageError(settings.package, "it holds another model now")
    except ModelError as error:
        logger.critical("the model package was changed since the service started: %s", error)
        raise SystemExit(STARTUP_FAILURE) from error
    app = create_front(Service(settings, package, RemoteEngine(address, sha256, on_useless=_end)))
    keep_for_good()
    return app


def _end() -> None:
    """Soon, and so that the supervisor does not try again."""
    asyncio.get_running_loop().call_later(LAST_ANSWERS_SECONDS, os._exit, STARTUP_FAILURE)


def _end_with_parent() -> None:
    """However the supervisor ended, this process does not stay behind without it."""
    parent = parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)
