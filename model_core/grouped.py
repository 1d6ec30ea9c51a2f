"""The grouped form: all branches of a level at once. It is the model: it owns the weights and is trained.

The other form of the same weights, leaf by leaf, is `depth_first`; the two agree to 1e-4 in evaluation mode. A GPU
trains in another layout of this one, `group_major`.

Shape legend: B batch, L leaves, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor, nn

from model_core.errors import SpecError
from model_core.layers import Block
from model_core.spec import ModelSpec
from model_core.tree import Tree

__all__ = ["HierarchicalEnsemble", "prefix_means"]


class HierarchicalEnsemble(nn.Module):
    """A hierarchical neural ensemble: one `Block` per level of the tree.

    Raises:
        SpecError: the blocks do not fit the spec's tree.
    """

    def __init__(self, spec: ModelSpec, blocks: Sequence[Block]) -> None:
        super().__init__()
        self.spec = spec
        tree = spec.tree
        if len(blocks) != tree.blocks:
            raise SpecError(f"{spec.name}: {len(blocks)} blocks for a tree of {tree.blocks} levels")
        for index, block in enumerate(blocks):
            parents = tree.width(index - 1) if index else 1
            if (block.parents, block.nodes) != (parents, tree.width(index)):
                raise SpecError(
                    f"{spec.name}: block {index} has {block.nodes} nodes on {block.parents} parents, "
                    f"the tree asks for {tree.width(index)} on {parents}"
                )
        self.blocks: nn.ModuleList = nn.ModuleList(blocks)

    @property
    def tree(self) -> Tree:
        """The tree of the ensemble."""
        return self.spec.tree

    def block(self, index: int) -> Block:
        """All nodes of one level."""
        block = self.blocks[index]
        assert isinstance(block, Block)
        return block

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images (B, C, H, W) to the logits of every leaf, (L, B, K)."""
        x: Tensor = images
        for block in self.blocks:
            x = block(x)
        return x.view(x.shape[0], self.tree.leaves, -1).transpose(0, 1)


def prefix_means(logits: Tensor) -> Tensor:
    """Ensemble outputs y_n, n = 1..L, from leaf logits (L, B, K): the mean of the first n (Eq. 1).

    Returns (L, B, K); the softmax comes after the mean.
    """
    sizes = logits.new_ones(logits.shape[0]).cumsum(0)
    return logits.cumsum(0) / sizes[:, None, None]
