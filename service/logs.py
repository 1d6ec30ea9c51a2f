"""Logs: what every process of the service does with its messages."""

from __future__ import annotations

import logging
import sys

from service.settings import Settings

__all__ = ["complain", "configure_logging"]


def configure_logging(settings: Settings) -> None:
    """Lines on stderr, from the level that is set."""
    logging.basicConfig(
        level=settings.log_level.upper(), format="%(asctime)s %(levelname)s %(name)s %(message)s", stream=sys.stderr
    )


def complain(error: Exception | str, status: int) -> int:
    """Say in one line why a process ends, and return its exit status."""
    print(f"hne-serve: {error}", file=sys.stderr, flush=True)
    return status
