"""What slots hold between two segments, in the machine's memory: per level one activation of each slot's request."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from model_core.tree import Tree
from service.errors import SettingsError
from service.runners.base import Array, Rows

__all__ = ["IMAGE", "Activations", "kept_shapes"]

IMAGE = -1
"""The level of the input image, above block 0."""


def kept_shapes(
    tree: Tree, shapes: Mapping[int, tuple[int, ...]], input_shape: tuple[int, ...]
) -> dict[int, tuple[int, ...]]:
    """The levels that slots have to hold: the blocks in `shapes`, and the image where a step after 0 reads it again."""
    reread = any(tree.entry_block(leaf) == 0 for leaf in range(1, tree.leaves))
    return {IMAGE: input_shape, **shapes} if reread else dict(shapes)


class Activations:
    """`slots` rows; `shapes` gives one request's activation shape per level.

    Raises:
        SettingsError: there is not so much memory.
    """

    def __init__(self, slots: int, shapes: Mapping[int, tuple[int, ...]]) -> None:
        try:
            # `np.zeros` would leave the memory to be found page by page while serving: a tenth of a step's time.
            self._levels = {level: np.full((slots, *shape), 0, np.float32) for level, shape in shapes.items()}
        except MemoryError as error:
            raise SettingsError(f"max_active: there is no memory for {slots} slots ({error})") from error

    @property
    def memory_bytes(self) -> int:
        """Memory that they take."""
        return sum(array.nbytes for array in self._levels.values())

    def __contains__(self, level: int) -> bool:
        return level in self._levels

    def gather(self, level: int, rows: Rows) -> Array:
        """The activations (B, ...) of a level: in place if `rows` is a slice, otherwise a copy."""
        return self._levels[level][rows]

    def store(self, level: int, rows: Rows, activations: Array) -> None:
        """Keep activations (B, ...) for later segments."""
        self._levels[level][rows] = activations
