"""Supervisor: one engine process and several API processes, from start to end.

uvicorn's own supervisor starts the API processes on a shared socket and replaces those that die. This one adds
the engine process. Who replaces that one is whoever keeps the service: without an engine the service ends, and its
status is not 0.

    SIGTERM or Ctrl-C:  the engine answers everyone with what they have  ->  the API processes send these answers and
                        end  ->  the engine process ends
    SIGHUP:             one API process after the other is replaced, unless the service was told to ignore it (nohup);
                        where a new one does not get ready, or another signal comes, the others stay as they are
"""

from __future__ import annotations

import logging
import signal
import time
from collections.abc import Sequence
from functools import partial
from multiprocessing import get_context
from multiprocessing.connection import wait
from pathlib import Path
from tempfile import TemporaryDirectory

from uvicorn.config import STARTUP_FAILURE
from uvicorn.supervisors import Multiprocess
from uvicorn.supervisors.multiprocess import Process

from model_core.package import Package
from service import engine_process
from service.address import check_free
from service.logs import complain
from service.policies import parse_policy
from service.protocol import server_config
from service.settings import Settings
from service.welcome import welcome
from service.worker import ApiProcess, create_worker

__all__ = ["serve_in_processes"]

logger = logging.getLogger(__name__)

HANG_SECONDS = 30
"""An API process that does not react for so long is replaced as well, whenever another one is."""
START_SECONDS = 60
"""What a new one may take to get ready before those that serve are left alone."""
ANSWER_SECONDS = 1.0
"""What it may take to say whether it is; while it loads it says nothing."""
AGAIN_SECONDS = 0.1
"""After which it is asked again."""
LAST_WORDS = (engine_process.DRAINED, engine_process.LOST)
END_SECONDS = 5.0
"""What a process may take to end beyond the time to answer."""


def serve_in_processes(settings: Settings) -> int:
    """Serve until told to end; the exit status.

    Raises:
        PackageError, SettingsError: the model cannot be served.
    """
    package = Package.load(settings.package)
    parse_policy(settings.policy, package.manifest.table)  # before an engine is started for nothing
    with TemporaryDirectory(prefix="hne-") as folder:  # nobody but this user gets in
        supervisor = Supervisor(settings, package, f"ipc://{Path(folder) / 'engine'}")
        supervisor.run()
    return supervisor.status


class Supervisor(Multiprocess):
    """Keeps the processes of one service, whose engine is reached at a ZeroMQ address."""

    def __init__(self, settings: Settings, package: Package, address: str) -> None:
        config = server_config(
            partial(create_worker, settings, address, package.sha256),
            settings,
            factory=True,
            workers=settings.api_processes,
            lifespan="on",
            timeout_worker_healthcheck=HANG_SECONDS,
        )
        check_free(settings.host, settings.port)
        self._listening = config.bind_socket()
        self._listening.listen(config.backlog)  # so that who connects while an API process starts waits for it
        inherited = signal.getsignal(signal.SIGHUP)
        super().__init__(config, [self._listening])
        # From here the engine process and Python's resource tracker inherit it: a hangup is the supervisor's affair.
        restart = signal.signal(signal.SIGHUP, signal.SIG_IGN)
        self.status = 0
        self._drained = False
        self._settings = settings
        self._package = package
        spawn = get_context("spawn")
        self._pipe, theirs = spawn.Pipe()
        self._engine = spawn.Process(
            target=engine_process.run_engine, args=(settings, address, theirs), name="hne-engine"
        )
        self._engine.start()
        theirs.close()
        if inherited != signal.SIG_IGN:  # else it was started to outlive its terminal, by nohup
            signal.signal(signal.SIGHUP, restart)

    def run(self) -> None:
        """Serve until told to end, or until it cannot go on."""
        try:
            super().run()
        except Exception:  # a fault of our own: nothing stays behind that looks alive
            self.terminate_all()
            self.join_all()
            raise
        finally:
            self._end_engine()

    def keep_subprocess_alive(self) -> None:
        """Called twice a second: look after the engine process, then after the others."""
        if self.should_exit.is_set() or self.signal_queue:
            return
        if not self._engine.is_alive():
            self._engine.join()
            self._fail()
            if self._engine.exitcode != 1:  # then it has said why itself
                complain(f"the engine process ended, with status {self._engine.exitcode}", 1)
            return
        match self._word(0):
            case engine_process.READY:
                welcome(self._package, self._listening)
            case engine_process.DRAINED | engine_process.LOST as word:
                self._drained = True
                self._fail()
                if word == engine_process.DRAINED:  # otherwise it says why itself
                    complain("the engine process was told to end", 1)
                return
        # uvicorn also asks each process whether it hangs, and waits for the answer, which comes from a thread that
        # hardly ever does. So it is called where it has something to do: who is still loading must not hold this up.
        if not all(process.process.is_alive() for process in self.processes):
            super().keep_subprocess_alive()
            if any(process.exitcode == STARTUP_FAILURE for process in self.processes):
                self._fail()

    def terminate_all(self) -> None:
        """Let the engine answer everyone before the API processes are told to end."""
        # Once they have closed theirs, who connects is refused: here nobody would answer.
        self._listening.close()
        if self._engine.is_alive() and not self._drained:
            self._engine.terminate()
            until = time.monotonic() + self._settings.drain_seconds + engine_process.FLUSH_SECONDS + END_SECONDS
            while (word := self._word(until - time.monotonic())) is not None and word not in LAST_WORDS:
                pass
        super().terminate_all()

    def join_all(self) -> None:
        """Wait for the API processes; one that hangs is not waited for."""
        self._join(self.processes)

    def restart_all(self) -> None:
        """Replace one API process after the other, each once the new one serves."""
        for index, old in enumerate(self.processes):
            new = ApiProcess(self.config, self.sockets)
            new.start()
            if not self._gets_ready(new):
                new.kill()
                new.join()
                return
            self.processes[index] = new
            old.terminate()
            self._join([old])

    def _gets_ready(self, process: Process) -> bool:
        until = time.monotonic() + START_SECONDS
        while not process.is_ready(ANSWER_SECONDS):
            if self.signal_queue:  # what it says comes first
                return False
            if not process.process.is_alive() or time.monotonic() > until:
                logger.error("a new API process does not get ready: those that serve are kept")
                return False
            time.sleep(AGAIN_SECONDS)
        return True

    def _join(self, processes: Sequence[Process]) -> None:
        """Wait for processes that were told to end, as long as they may take."""
        until = time.monotonic() + self._settings.drain_seconds + END_SECONDS
        for process in processes:
            process.process.join(max(0.0, until - time.monotonic()))
            if process.process.is_alive():
                process.process.kill()
            process.join()

    def _fail(self) -> None:
        self.status = 1
        self.should_exit.set()

    def _word(self, seconds: float) -> bytes | None:
        """What the engine process says next; None if it says nothing within so many seconds, or has ended."""
        if self._pipe not in wait([self._pipe, self._engine.sentinel], max(0.0, seconds)):
            return None
        try:
            return self._pipe.recv_bytes()
        except (EOFError, OSError):
            return None

    def _end_engine(self) -> None:
        self._pipe.close()
        self._engine.join(END_SECONDS)
        if self._engine.is_alive():
            self._engine.kill()
            self._engine.join()
        self._listening.close()
