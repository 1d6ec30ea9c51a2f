"""The processes of a running `hne-serve --api-processes N`, seen from outside in /proc."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from service.title import ENGINE

__all__ = ["PATIENCE", "Running", "gone", "ignores_hangups", "loads_the_runner", "name_of", "stopped"]

PATIENCE = 240
"""Seconds after which a test gives up: many, since a busy machine may take long to start a process."""


@dataclass(frozen=True)
class Running:
    """A service of several processes."""

    url: str
    process: subprocess.Popen[str]
    folder: Path
    """Where its temporary files are."""

    @property
    def engine(self) -> int:
        """The process that has the runner."""
        (engine,) = (child for child in self._children() if name_of(child) == ENGINE)
        return engine

    @property
    def apis(self) -> set[int]:
        """The processes that serve HTTP."""
        return {child for child in self._children() if name_of(child) != ENGINE}

    def _children(self) -> list[int]:
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
        # None of Python's own, and none that has not begun its own program yet: until then its parent is deaf (vfork).
        return [int(child) for child in children if b"--multiprocessing-fork" in _read(f"/proc/{child}/cmdline")]

    def alive(self) -> set[int]:
        """What is left of its process group."""
        pids = [int(path.name) for path in Path("/proc").glob("[0-9]*")]
        stats = {pid: _read(f"/proc/{pid}/stat").rpartition(b")")[2].split() for pid in pids}
        return {pid for pid, stat in stats.items() if stat and int(stat[2]) == self.process.pid and stat[0] != b"Z"}


async def gone(service: Running) -> None:
    """Wait until none of its processes is left; Python's own resource tracker is the last, and needs a moment."""
    async with asyncio.timeout(PATIENCE):
        while service.alive():
            await asyncio.sleep(0)


def _read(path: str) -> bytes:
    try:
        return Path(path).read_bytes()
    except (FileNotFoundError, ProcessLookupError):
        return b""


def ignores_hangups(pid: int) -> bool:
    """Whether SIGHUP does nothing to a process."""
    (ignored,) = (line for line in _read(f"/proc/{pid}/status").splitlines() if line.startswith(b"SigIgn:"))
    return bool(int(ignored.split()[1], 16) & 1 << signal.SIGHUP - 1)


def loads_the_runner(pid: int) -> bool:
    """Whether a process has the library of the runner in its memory."""
    return b"onnxruntime" in _read(f"/proc/{pid}/maps")


def name_of(pid: int) -> str:
    """What `ps` calls a process."""
    return _read(f"/proc/{pid}/comm").decode().strip()


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    """Within the block a process stands still."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)
