"""SIGINT and SIGTERM as requests to stop, so that what runs can save itself first."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

__all__ = ["outlive_a_signal", "stop_signals"]

SIGNALS = signal.SIGINT, signal.SIGTERM


@contextmanager
def stop_signals() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM instead of dying from them; a second one is taken seriously."""
    received: list[int] = []

    def remember(number: int, frame: FrameType | None) -> None:
        received.append(number)
        signal.signal(number, previous[signal.Signals(number)])

    previous = {number: signal.signal(number, remember) for number in SIGNALS}
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def outlive_a_signal(worker: int) -> None:
    """In a worker process: Ctrl-C, and what `timeout` and batch systems send, reach all processes of a group, and the
    trainer wants its step's images before it stops. As there, a second signal is taken seriously."""
    for number in SIGNALS:
        signal.signal(number, lambda number, frame: signal.signal(number, signal.SIG_DFL))
