"""Borrowed: one runner for many engines in turn. Slots are reserved once, and an engine's end closes nothing."""

from __future__ import annotations

from model_core.tree import Segment
from service.runners import Array, Runner
from service.runners.base import Rows

__all__ = ["Borrowed"]


class Borrowed:
    """A runner for `slots` slots, to be handed to engines that ask for no more."""

    def __init__(self, runner: Runner, slots: int) -> None:
        self.name = runner.name
        self.configuration = runner.configuration
        self.segments: tuple[Segment, ...] = runner.segments
        self.max_batch = runner.max_batch
        self.pads = runner.pads
        self._runner, self._slots = runner, slots
        self._bytes = runner.reserve(slots)

    def reserve(self, slots: int) -> int:
        """See `Runner.reserve`."""
        assert slots <= self._slots
        return self._bytes

    def run(self, segment: Segment, rows: Rows, images: Array | None = None, *, final: bool = False) -> Array:
        """See `Runner.run`."""
        return self._runner.run(segment, rows, images, final=final)

    def close(self) -> None:
        """The next engine runs with it."""
