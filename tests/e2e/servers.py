"""`hne-serve` as a user runs it: processes of its own on a free port of the loopback interface."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ["launched", "server", "wait_until_ready"]

SETTINGS = {"HNE_RUNNER": "cpu", "HNE_PROFILE_SECONDS": "0.1", "HNE_KEEP_PROFILE": "false"}
READY = re.compile(r"is ready at (http://127\.0\.0\.1:\d+)")


@contextmanager
def launched(
    package: Path, *flags: str, program: str | None = None, **environment: str
) -> Iterator[subprocess.Popen[str]]:
    """A server that has just been started, in a process group of its own; by a `program` that starts it, if given."""
    start = ["-m", "service.cli"] if program is None else ["-c", program]
    command = [sys.executable, "-W", "error", *start, "--port", "0", "--threads", "1", *flags]
    with subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | SETTINGS | {"HNE_MODEL": str(package)} | environment,
        text=True,
        process_group=0,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def wait_until_ready(process: subprocess.Popen[str]) -> str:
    """The address of a server, once it serves."""
    assert process.stdout is not None
    ready = READY.search(process.stdout.readline())
    assert ready, process.communicate()
    return ready[1]


@contextmanager
def server(package: Path, *flags: str) -> Iterator[tuple[str, subprocess.Popen[str]]]:
    """A running server's address and process."""
    with launched(package, *flags) as process:
        yield wait_until_ready(process), process
