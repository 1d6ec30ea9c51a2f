"""Faults: a machine on which some steps take longer, as on machines that do other work."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np

from benchmarks.load.borrowed import Borrowed
from benchmarks.load.wrapped import Wrapped
from model_core.tree import Segment
from service.runners import Array
from service.runners.base import Rows

__all__ = ["Stragglers"]


class Stragglers(Wrapped):
    """A runner some of whose segments take `factor` times as long, each drawn by itself."""

    def __init__(
        self,
        runner: Borrowed,
        *,
        share: float,
        seed: Sequence[int] = (0,),
        factor: float = 4.0,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        super().__init__(runner)
        self._share, self._factor, self._sleep = share, factor, sleep
        self._random = np.random.default_rng(seed)

    def run(self, segment: Segment, rows: Rows, images: Array | None = None, *, until: int | None = None) -> Array:
        """See `Runner.run`."""
        started = time.perf_counter()
        logits = super().run(segment, rows, images, until=until)
        if self._share and self._random.random() < self._share:
            self._sleep((self._factor - 1) * (time.perf_counter() - started))
        return logits
