"""The runner: what computes a segment for a batch. The engine's thread is its only caller."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from model_core.tree import Segment

__all__ = ["Array", "Runner"]

Array = NDArray[np.float32]


class Runner(Protocol):
    """Computes segments of one model. Implementations keep to float32 NumPy arrays at this border."""

    @property
    def name(self) -> str:
        """What it is, and on which device it computes: `onnx-cpu`."""
        ...

    @property
    def segments(self) -> tuple[Segment, ...]:
        """The segments it can compute; all steps (width 1) are among them."""
        ...

    @property
    def shapes(self) -> Mapping[int, tuple[int, ...]]:
        """Shape of one request's activation, for every block that some step keeps for a later one."""
        ...

    @property
    def max_batch(self) -> int | None:
        """The largest batch it takes; None if it sets no limit."""
        ...

    def run(self, segment: Segment, x: Array) -> tuple[Array, dict[int, Array]]:
        """Compute one segment.

        `x` (B, ...) is the images, or the activations of the node that the segment starts from. Returns the logits
        (w, B, K) of its leaves and, for every block of `tree.kept_blocks(segment)`, the activations (B, ...) to keep.

        Raises:
            RunnerError: the computation failed; the runner stays usable.
        """
        ...

    def close(self) -> None:
        """Release what it holds. It cannot run afterwards."""
        ...
