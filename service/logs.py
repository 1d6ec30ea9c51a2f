"""Logs: what every process of the service does with its messages."""

from __future__ import annotations

import logging
import sys
from contextlib import suppress
from typing import TextIO

from service.settings import Settings

__all__ = ["complain", "configure_logging", "say"]


def configure_logging(settings: Settings) -> None:
    """Lines on stderr, from the level that is set."""
    logging.basicConfig(
        level=settings.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s %(message)s", stream=sys.stderr
    )


def complain(error: Exception | str, status: int) -> int:
    """Say in one line why a process ends, and return its exit status."""
    say(f"hne-serve: {error}", sys.stderr)
    return status


def say(text: str, stream: TextIO) -> None:
    """Print lines, or do without where nobody can read them: a full disk or a closed pipe is no reason to end."""
    with suppress(OSError):
        print(text, file=stream, flush=True)
