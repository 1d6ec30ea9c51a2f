"""Borrowed: one runner for many engines in turn. Slots are reserved once, and an engine's end closes nothing."""

from __future__ import annotations

from benchmarks.load.wrapped import Wrapped
from service.runners import Runner

__all__ = ["Borrowed"]


class Borrowed(Wrapped):
    """A runner for `slots` slots, to be handed to engines that ask for no more."""

    def __init__(self, runner: Runner, slots: int) -> None:
        super().__init__(runner)
        self._slots = slots
        self._bytes = runner.reserve(slots)

    def reserve(self, slots: int) -> int:
        """See `Runner.reserve`."""
        assert slots <= self._slots
        return self._bytes

    def close(self) -> None:
        """The next engine runs with it."""
