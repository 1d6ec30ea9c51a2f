"""Faults: a machine on which some steps take longer, as machines that do other work have it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping

import numpy as np

from model_core.tree import Segment
from service.runners import Array, Runner

__all__ = ["Stragglers"]


class Stragglers:
    """A runner some of whose segments take `factor` times as long, each drawn by itself. Closing it closes nothing."""

    def __init__(
        self,
        runner: Runner,
        *,
        share: float = 0.0,
        seed: int = 0,
        factor: float = 4.0,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.name = runner.name
        self.segments: tuple[Segment, ...] = runner.segments
        self.shapes: Mapping[int, tuple[int, ...]] = runner.shapes
        self.max_batch = runner.max_batch
        self._runner, self._share, self._factor = runner, share, factor
        self._sleep = sleep
        self._random = np.random.default_rng(seed)

    def run(self, segment: Segment, x: Array) -> tuple[Array, dict[int, Array]]:
        """See `Runner.run`."""
        started = time.perf_counter()
        result = self._runner.run(segment, x)
        if self._share and self._random.random() < self._share:
            self._sleep((self._factor - 1) * (time.perf_counter() - started))
        return result

    def close(self) -> None:
        """The runner behind it serves the next engine."""
