"""Wrapped: a runner inside another one, which adds something to what it does."""

from __future__ import annotations

from model_core.tree import Segment
from service.runners import Array, Runner
from service.runners.base import Rows

__all__ = ["Wrapped"]


class Wrapped:
    """A `Runner` that does what another does; what a kind of it adds it says by overriding."""

    def __init__(self, runner: Runner) -> None:
        self.name, self.configuration = runner.name, runner.configuration
        self.segments, self.max_batch, self.pads = runner.segments, runner.max_batch, runner.pads
        self.keeping_costs = runner.keeping_costs
        self._runner = runner

    def reserve(self, slots: int) -> int:
        """See `Runner.reserve`."""
        return self._runner.reserve(slots)

    def run(self, segment: Segment, rows: Rows, images: Array | None = None, *, until: int | None = None) -> Array:
        """See `Runner.run`."""
        return self._runner.run(segment, rows, images, until=until)

    def close(self) -> None:
        """See `Runner.close`."""
        self._runner.close()
