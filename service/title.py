"""Title: what a process of the service is called in `ps`, `top` and `/proc`, so that an operator tells them apart."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path

__all__ = ["API", "ENGINE", "call_this_process"]

API, ENGINE = "hne-api", "hne-engine"

COMM = Path("/proc/self/comm")


def call_this_process(name: str) -> None:
    """Name this process, and the threads that it starts from here on, in at most 15 characters; only Linux does it."""
    with suppress(OSError):
        COMM.write_text(name)
