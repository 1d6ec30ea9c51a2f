"""The tree of a hierarchical ensemble: which blocks exist, who shares them, what a step computes.

Pure Python, no torch. Everything else stands on it: the grouped and the depth-first form, the cost
tables, the ONNX steps and the scheduler.

Words: block b is a stage of the network; node (b, k) is one set of that block's parameters; leaf n is
one complete network from root to leaf, in depth-first order. Ensemble size n means the first n leaves.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import prod
from typing import NamedTuple

from model_core.errors import SpecError

__all__ = ["Node", "Segment", "Tree"]


class Node(NamedTuple):
    """One set of block parameters: node k of a block."""

    block: int
    k: int


class Segment(NamedTuple):
    """The work that takes a request from ensemble size `start` to `start + width`.

    With `width` 1 it is a step: one more leaf.
    """

    start: int
    width: int = 1

    @property
    def stop(self) -> int:
        """The ensemble size after the segment."""
        return self.start + self.width


@dataclass(frozen=True, slots=True)
class Tree:
    """A tree given by the branching factor of every block.

    `(1, 2, 2, 2, 2)` is the paper's HNE with N = 16, `(1, 1, 1, 16, 1)` a multi-branch ensemble on
    a shared backbone, `(16, 1, 1, 1, 1)` sixteen independent networks (Figure 5).

    Raises:
        SpecError: no blocks, or a factor below 1.
    """

    branching: tuple[int, ...]

    def __post_init__(self) -> None:
        if not self.branching or any(factor < 1 for factor in self.branching):
            raise SpecError(f"branching factors must be one positive number per block, got {self.branching}")

    @property
    def blocks(self) -> int:
        """Number of blocks, B + 1 in the paper."""
        return len(self.branching)

    @property
    def leaves(self) -> int:
        """Number of networks in the full ensemble, N in the paper."""
        return prod(self.branching)

    @property
    def ensemble_sizes(self) -> range:
        """Every ensemble size, 1..N."""
        return range(1, self.leaves + 1)

    def width(self, block: int) -> int:
        """Number of nodes of a block."""
        return prod(self.branching[: block + 1])

    def span(self, block: int) -> int:
        """Number of leaves below one node of a block."""
        return self.leaves // self.width(block)

    def nested_sizes(self) -> tuple[int, ...]:
        """The sizes of whole first subtrees: 1, 2, 4, ..., N for a binary tree (y_b of Eq. 1)."""
        return tuple(sorted({1, *(self.span(block) for block in range(self.blocks)), self.leaves}))

    def nodes(self) -> Iterator[Node]:
        """Every node, block by block."""
        for block in range(self.blocks):
            for k in range(self.width(block)):
                yield Node(block, k)

    def parent(self, node: Node) -> Node | None:
        """The node that feeds `node`; None where the image does."""
        return Node(node.block - 1, node.k // self.branching[node.block]) if node.block else None

    def leaf_path(self, leaf: int) -> tuple[Node, ...]:
        """The nodes of one complete network, root first."""
        self._check_leaf(leaf)
        return tuple(Node(block, leaf // self.span(block)) for block in range(self.blocks))

    def entry_block(self, leaf: int) -> int:
        """The first block that step `leaf` computes; the blocks above it were computed by earlier steps."""
        self._check_leaf(leaf)
        return next(block for block in range(self.blocks) if leaf % self.span(block) == 0)

    def entry_node(self, leaf: int) -> Node | None:
        """The node whose stored activation step `leaf` starts from; None where it starts from the image."""
        return self.parent(self.leaf_path(leaf)[self.entry_block(leaf)])

    def max_width(self, leaf: int) -> int:
        """Leaves from `leaf` up to the end of the subtree below what its step starts from: no segment is wider."""
        parent = self.entry_node(leaf)
        span = self.leaves if parent is None else self.span(parent.block)  # the image is above every node of block 0
        return span - leaf % span

    def segment(self, start: int, width: int = 1) -> Segment:
        """A checked segment.

        Widths are the spans of the tree's nodes (1, 2, 4, 8, 16 for a binary tree of 16 leaves), at
        starts that they divide, so that every block of the segment holds whole sibling groups.

        Raises:
            SpecError: the leaf does not exist, or the width is none of `widths(start)`.
        """
        if width not in self.widths(start):
            raise SpecError(f"no segment of {width} leaves starts at leaf {start}; possible: {self.widths(start)}")
        return Segment(start, width)

    def widths(self, start: int) -> tuple[int, ...]:
        """The widths of the segments that start at a leaf, ascending."""
        limit = self.max_width(start)
        return tuple(w for w in self.nested_sizes() if w <= limit and start % w == 0)

    def segments(self) -> Iterator[Segment]:
        """Every segment of every width."""
        for start in range(self.leaves):
            for width in self.widths(start):
                yield Segment(start, width)

    def fresh(self, segment: Segment) -> dict[int, range]:
        """The nodes a segment computes, per block, as ranges of k.

        The steps partition the tree: each node is fresh in exactly one step.
        """
        start, width = self.segment(*segment)
        return {
            block: range(start // self.span(block), (start + width - 1) // self.span(block) + 1)
            for block in range(self.entry_block(start), self.blocks)
        }

    def fresh_nodes(self, segment: Segment) -> tuple[Node, ...]:
        """The nodes a segment computes, block by block."""
        return tuple(Node(block, k) for block, nodes in self.fresh(segment).items() for k in nodes)

    def kept_blocks(self, segment: Segment, until: int | None = None) -> tuple[int, ...]:
        """The blocks whose fresh activations later steps start from; `until` an ensemble size, if there is one to stop
        at.

        After the segment, exactly the last fresh node of such a block still has children to come.
        """

        def has_children_to_come(block: int, k: int) -> bool:
            if block + 1 == self.blocks or self.branching[block + 1] == 1:
                return False
            span = self.span(block + 1)
            next_child_starts_at = -(-segment.stop // span) * span
            return next_child_starts_at < min((k + 1) * self.span(block), until or self.leaves)

        return tuple(block for block, nodes in self.fresh(segment).items() if has_children_to_come(block, nodes[-1]))

    def _check_leaf(self, leaf: int) -> None:
        if not 0 <= leaf < self.leaves:
            raise SpecError(f"leaf {leaf} does not exist in a tree of {self.leaves} leaves")
