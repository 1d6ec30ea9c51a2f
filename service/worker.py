"""Worker: the app of one API process. It talks to the engine process and loads no runner."""

from __future__ import annotations

import os
import signal
import threading
from multiprocessing import parent_process

from fastapi import FastAPI

from model_core.package import Package
from service.channel.remote import RemoteEngine
from service.front import create_front
from service.garbage import keep_for_good
from service.lifecycle import Service
from service.logs import configure_logging
from service.settings import Settings

__all__ = ["create_worker"]


def create_worker(settings: Settings, address: str) -> FastAPI:
    """The app of an API process whose engine is at a ZeroMQ address.

    Raises:
        PackageError: the package was changed since the service started, and cannot be served.
    """
    configure_logging(settings)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process; the supervisor says who ends when
    threading.Thread(target=_end_with_parent, name="hne-parent", daemon=True).start()
    package = Package.load(settings.package)
    app = create_front(Service(settings, package, RemoteEngine(address, package.sha256)))
    keep_for_good()
    return app


def _end_with_parent() -> None:
    """However the supervisor ended, this process does not stay behind without it."""
    parent = parent_process()
    assert parent is not None
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)
