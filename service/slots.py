"""The slot pool: everything the engine stores for the requests it refines, preallocated, one row per request.

Per kept block one activation (the path's latest node), and the sum of the logits so far. No locks: the engine
takes and frees slots under its own lock, and reads and writes rows from its thread alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from model_core.tree import Tree
from service.runners.base import Array

__all__ = ["IMAGE", "Rows", "SlotPool", "kept_shapes", "rows_of"]

IMAGE = -1
"""The level of the input image, above block 0."""

Rows = slice | list[int]
"""Which rows of the pool a batch has, in its order."""


def kept_shapes(
    tree: Tree, shapes: Mapping[int, tuple[int, ...]], input_shape: tuple[int, ...]
) -> dict[int, tuple[int, ...]]:
    """The levels a pool has to hold: the blocks in `shapes`, and the image where a step after 0 reads it again."""
    reread = any(tree.entry_block(leaf) == 0 for leaf in range(1, tree.leaves))
    return {IMAGE: input_shape, **shapes} if reread else dict(shapes)


class SlotPool:
    """`capacity` slots; `shapes` gives one request's activation shape per level."""

    def __init__(self, capacity: int, shapes: Mapping[int, tuple[int, ...]], classes: int) -> None:
        self.capacity = capacity
        # `np.zeros` would leave the memory to be found page by page while serving: a tenth of a step's time.
        self._levels = {level: np.full((capacity, *shape), 0, np.float32) for level, shape in shapes.items()}
        self._logit_sums = np.full((capacity, classes), 0, np.float32)
        self._free = list(reversed(range(capacity)))  # lowest first: batches tend to be contiguous

    @property
    def available(self) -> int:
        """Slots that can be taken."""
        return len(self._free)

    @property
    def memory_bytes(self) -> int:
        """Memory that the pool reserves."""
        return self._logit_sums.nbytes + sum(array.nbytes for array in self._levels.values())

    def take(self) -> int:
        """A free slot, its logit sum zero. There must be one."""
        slot = self._free.pop()
        self._logit_sums[slot] = 0
        return slot

    def free(self, slot: int) -> None:
        """Give a slot back."""
        assert slot not in self._free, f"slot {slot} is free already"
        self._free.append(slot)

    def gather(self, level: int, rows: Rows) -> Array:
        """The activations (B, ...) of a level, a view if `rows` is a slice."""
        return self._levels[level][rows]

    def store(self, level: int, rows: Rows, activations: Array) -> None:
        """Keep activations (B, ...) for later steps; a level that no step reads is not kept."""
        if level in self._levels:
            self._levels[level][rows] = activations

    def add_logits(self, rows: Rows, logits: Array) -> None:
        """Add leaves' logits (w, B, K)."""
        self._logit_sums[rows] += logits.sum(axis=0)

    def probabilities(self, rows: Rows, size: int, temperature: float) -> Array:
        """softmax(y_n / T), (B, K), at ensemble size n; y_n is the mean of the n leaves' logits."""
        logits = self._logit_sums[rows] / np.float32(size * temperature)
        exponentials = np.exp(logits - logits.max(axis=-1, keepdims=True))
        probabilities: Array = exponentials / exponentials.sum(axis=-1, keepdims=True)
        return probabilities


def rows_of(slots: Sequence[int]) -> Rows:
    """The rows of distinct slots in ascending order: a slice, which needs no copy, where they are neighbours."""
    first, last = slots[0], slots[-1]
    return slice(first, last + 1) if last - first == len(slots) - 1 else list(slots)
