"""The runner: what computes a segment, and keeps the activations that later segments of the same requests start from.

    requests (slots) --rows--> Runner.run(segment, rows) --> logits of the segment's leaves

A slot is a row that a request holds from its first step to its end. The activations of all slots lie where the runner
computes, so that on a GPU they never leave it; the engine hands over rows, and images once. Its thread is the only
caller.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from model_core.tree import Segment

__all__ = ["Array", "Rows", "Runner", "batch_of", "padded", "rows_of"]

Array = NDArray[np.float32]

Rows = slice | list[int]
"""The slots of a batch, in its order. A slice where they are neighbours, so that nothing has to be copied."""


class Runner(Protocol):
    """Computes segments of one model. Implementations keep to float32 NumPy arrays at this border."""

    @property
    def name(self) -> str:
        """What it is, and on which device it computes: `onnx-cpu`."""
        ...

    @property
    def configuration(self) -> str:
        """Everything of it that decides how long a segment takes on a given machine."""
        ...

    @property
    def segments(self) -> tuple[Segment, ...]:
        """The segments it can compute; all steps (width 1) are among them."""
        ...

    @property
    def max_batch(self) -> int | None:
        """The largest batch it takes; None if it sets no limit."""
        ...

    @property
    def pads(self) -> bool:
        """Whether batches are `padded`, and take as long as what they are padded to."""
        ...

    @property
    def keeping_costs(self) -> bool:
        """Whether a first segment is the slower for what it keeps, so that `until` saves time."""
        ...

    def reserve(self, slots: int) -> int:
        """Make room for the activations of slots 0..slots-1, once, before the first `run`.

        Returns the bytes that it takes.

        Raises:
            SettingsError: there is not so much memory.
        """
        ...

    def run(self, segment: Segment, rows: Rows, images: Array | None = None, *, until: int | None = None) -> Array:
        """Compute one segment for the requests in `rows`; returns the logits (w, B, K) of its leaves.

        A segment that starts at leaf 0 is given normalised `images` (B, C, H, W), no other is: it starts from what the
        slots hold since the segments before it. None of them goes on beyond the ensemble size `until`, if it is given:
        what only segments from there on start from need not be kept.

        Raises:
            RunnerError: the computation failed; the runner stays usable, what the rows hold is lost.
        """
        ...

    def close(self) -> None:
        """Release what it holds. It cannot run afterwards."""
        ...


def rows_of(slots: Sequence[int]) -> Rows:
    """The rows of distinct slots in ascending order: a slice where they are neighbours."""
    first, last = slots[0], slots[-1]
    return slice(first, last + 1) if last - first == len(slots) - 1 else list(slots)


def batch_of(rows: Rows) -> int:
    """How many slots these are."""
    return rows.stop - rows.start if isinstance(rows, slice) else len(rows)


def padded(batch: int) -> int:
    """The batch size that is computed where a runner `pads`: the next power of two."""
    return 1 << (batch - 1).bit_length()
