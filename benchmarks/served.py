"""A server process of a benchmark's own: `hne-serve` on a free port of the loopback interface."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from service.title import API

__all__ = ["api_processes", "children", "served"]

READY = re.compile(r"is ready at (http://\S+)")
PATIENCE = 30.0
"""Seconds that it has to end."""


@contextmanager
def served(package: Path | None, *flags: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """Address and process of a server of a package (None: the shipped one) with these flags; it ends with the block.

    Raises:
        SystemExit: it does not start.
    """
    command = [sys.executable, "-m", "service.cli", "--port", "0", *flags]
    environment = os.environ | ({} if package is None else {"HNE_MODEL": str(package)})
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, text=True) as process:
        try:
            assert process.stdout is not None
            ready = READY.search(process.stdout.readline())
            if ready is None:
                raise SystemExit("the server did not start; what it said is above")
            yield ready[1], process
        finally:
            process.terminate()  # not killed: it ends its own processes
            try:
                process.wait(PATIENCE)
            finally:
                process.kill()


def api_processes(server: int) -> list[int]:
    """Those of a running server, by its own process id; Linux only."""
    return [child for child in children(server) if Path(f"/proc/{child}/comm").read_text().strip() == API]


def children(pid: int) -> list[int]:
    """The processes that a process has started, from whichever thread; Linux only."""
    return [
        int(child) for task in Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split()
    ]
