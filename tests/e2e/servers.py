"""`hne-serve` as a user runs it: processes of its own on a free port of the loopback interface."""

from __future__ import annotations

import asyncio
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx

__all__ = ["free_port", "launched", "server", "until_it_says", "wait_until_ready"]

SETTINGS = {"HNE_RUNNER": "cpu", "HNE_PROFILE_SECONDS": "0.1", "HNE_KEEP_PROFILE": "false"}
START_SECONDS = 60
READY = re.compile(r"is ready at (http://127\.0\.0\.1:\d+)")


@contextmanager
def launched(
    package: Path,
    *flags: str,
    port: int = 0,
    program: str | None = None,
    stdout: int = subprocess.PIPE,
    stderr: int = subprocess.PIPE,
    **environment: str,
) -> Iterator[subprocess.Popen[str]]:
    """A server that has just been started, in a process group of its own; by a `program` that starts it, if given."""
    start = ["-m", "service.cli"] if program is None else ["-c", program]
    command = [sys.executable, "-W", "error", *start, "--port", str(port), "--threads", "1", *flags]
    with subprocess.Popen(
        command,
        stdout=stdout,
        stderr=stderr,
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


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port: int = free.getsockname()[1]
    return port


async def until_it_says(port: int, status: int) -> None:
    """Whether it is ready; until it listens it says nothing."""
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}") as client, asyncio.timeout(START_SECONDS):
        while True:
            with suppress(httpx.TransportError):
                if (await client.get("/readyz")).status_code == status:
                    return
            await asyncio.sleep(0.05)
