"""The slot pool: everything the engine stores for the requests it refines, preallocated, one row per request.

Per kept block one activation (the path's latest node), and the sum of the logits so far. No locks: the engine
takes and frees slots under its own lock, and reads and writes rows from its thread alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from model_core.tree import Tree
from service.runners.base import Array

__all__ = ["IMAGE", "SlotPool", "kept_shapes"]

IMAGE = -1
"""The level of the input image, above block 0."""


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
        self._levels = {level: np.zeros((capacity, *shape), np.float32) for level, shape in shapes.items()}
        self._logit_sums = np.zeros((capacity, classes), np.float32)
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

    def gather(self, level: int, slots: Sequence[int]) -> Array:
        """The activations (B, ...) of a level, in the order of `slots`; a view where they are neighbours."""
        return self._levels[level][_rows(slots)]

    def store(self, level: int, slots: Sequence[int], activations: Array) -> None:
        """Keep activations (B, ...) for later steps; a level that no step reads is not kept."""
        if level in self._levels:
            self._levels[level][_rows(slots)] = activations

    def add_logits(self, slots: Sequence[int], logits: Array) -> None:
        """Add leaves' logits (w, B, K)."""
        self._logit_sums[_rows(slots)] += logits.sum(axis=0)

    def probabilities(self, slots: Sequence[int], size: int, temperature: float) -> Array:
        """softmax(y_n / T), (B, K), at ensemble size n; y_n is the mean of the n leaves' logits."""
        logits = self._logit_sums[_rows(slots)] / np.float32(size * temperature)
        exponentials = np.exp(logits - logits.max(axis=-1, keepdims=True))
        probabilities: Array = exponentials / exponentials.sum(axis=-1, keepdims=True)
        return probabilities


def _rows(slots: Sequence[int]) -> slice | list[int]:
    first = slots[0]
    neighbours = all(slot == first + offset for offset, slot in enumerate(slots))
    return slice(first, first + len(slots)) if neighbours else list(slots)
