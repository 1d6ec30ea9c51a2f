"""Engine process: the engine, its figures and the far end of the channel, with no HTTP and no image beside them.

It tells the supervisor on a pipe how far it is. SIGTERM makes it answer everyone with what they have; it ends when the
supervisor closes the pipe, or is gone, and by itself only for a fault.
"""

from __future__ import annotations

import logging
import signal
import sys
import threading
import time
from contextlib import suppress
from multiprocessing.connection import Connection

from model_core.errors import ModelError
from model_core.package import Package
from service.channel.host import Host
from service.engine import Engine
from service.errors import ServiceError
from service.garbage import keep_for_good
from service.local import build_engine, process_registry
from service.logs import complain, configure_logging
from service.metrics import Recorder
from service.settings import Settings
from service.title import ENGINE, call_this_process

__all__ = ["DRAINED", "FLUSH_SECONDS", "LOST", "READY", "run_engine"]

READY = b"ready"
"""The engine serves, and all API processes know."""
DRAINED = b"drained"
"""Everyone has been answered."""
LOST = b"lost"
"""So they have, because the engine has ended by a fault."""
FLUSH_SECONDS = 2.0
"""How long the last answers may wait for an API process that does not read."""
LOOK_SECONDS = 0.1
SWITCH_SECONDS = 0.0002
"""How long a thread may hold Python's lock while another waits for it, 5 ms by default: the engine's thread asks for it
after every step, and is to find the device idle for well under a millisecond."""

logger = logging.getLogger(__name__)


def run_engine(settings: Settings, address: str, supervisor: Connection) -> None:
    """The life of an engine process. Exits with 1 if the model cannot be served, or no longer."""
    call_this_process(ENGINE)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches every process of the terminal; the supervisor acts
    configure_logging(settings)
    sys.setswitchinterval(SWITCH_SECONDS)
    try:
        package = Package.load(settings.package)
        recorder = Recorder(package, process_registry())
        engine = build_engine(package, settings, recorder, clock=time.monotonic)
    except (ServiceError, ModelError) as error:
        logger.critical("the model cannot be served: %s", error)
        sys.exit(complain(error, 1))
    keep_for_good()
    engine.start()
    with Host(engine, recorder, package, address) as host:
        healthy = _serve(engine, host, settings, supervisor)
        with suppress(OSError):  # the supervisor is gone already
            supervisor.send_bytes(DRAINED if healthy else LOST)
            supervisor.poll(None)  # until it closes the pipe: the API processes still count what they answered
    engine.close()
    if not healthy:
        sys.exit(complain("the engine ended by a fault", 1))


def _serve(engine: Engine, host: Host, settings: Settings, supervisor: Connection) -> bool:
    """Until told to end, and then until everyone is answered. Whether the engine and the channel ran all the time."""
    told = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: told.set())
    announced = False
    while not told.is_set() and not supervisor.poll(LOOK_SECONDS):
        if engine.draining or not host.alive:
            return False
        if not announced and host.ready >= settings.api_processes:
            supervisor.send_bytes(READY)
            announced = True
    engine.drain(settings.drain_seconds)
    host.flush(FLUSH_SECONDS)
    return True
