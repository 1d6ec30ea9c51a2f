"""The depth-first form: leaf by leaf, starting from stored activations of the path above. Serving runs this.

It cuts the grouped model's blocks into the fresh nodes of each segment and shares the weights' memory, so
both forms always hold the same weights. In evaluation mode their logits agree to 1e-4; in training mode
batch norm would see other batches, and they would not.

Shape legend: B batch, W leaves of the segment, L leaves, K classes.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor, nn

from model_core.grouped import HierarchicalEnsemble
from model_core.tree import Node, Segment

__all__ = ["SegmentModule", "evaluate_segments", "refine", "segment_module"]


class SegmentModule(nn.Module):
    """The fresh nodes of one segment, in evaluation mode.

    `forward` takes the image (B, C, H, W), or the activation of the node that the segment starts from, to
    the logits of its leaves, (W, B, K), and one activation for each of `kept`: the block's last fresh
    node, where later segments start.
    """

    def __init__(self, model: HierarchicalEnsemble, segment: Segment) -> None:
        super().__init__()
        tree = model.tree
        self.segment = tree.segment(*segment)
        self.entry = tree.entry_node(segment.start)
        self.kept = tree.kept_blocks(segment)
        self.fresh = tree.fresh(segment)
        blocks, parents = [], 1
        for block, nodes in self.fresh.items():
            blocks.append(model.block(block).select(nodes, parents=parents))
            parents = len(nodes)
        self.blocks = nn.ModuleList(blocks).eval()

    def forward(self, x: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        flat, kept = self.flat(x)
        return flat.view(flat.shape[0], self.segment.width, -1).transpose(0, 1), kept

    def flat(self, x: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """As `forward`, with the logits of all leaves side by side, (B, W*K): what the blocks compute."""
        kept: list[Tensor] = []
        for (block, nodes), module in zip(self.fresh.items(), self.blocks, strict=True):
            x = module(x)
            if block in self.kept:
                kept.append(x.chunk(len(nodes), dim=1)[-1] if len(nodes) > 1 else x)
        return x, tuple(kept)


def segment_module(model: HierarchicalEnsemble, segment: Segment) -> SegmentModule:
    """One segment of a model.

    Raises:
        SpecError: the tree has no such segment.
    """
    return SegmentModule(model, segment)


@torch.inference_mode()
def evaluate_segments(
    model: HierarchicalEnsemble, images: Tensor, segments: list[Segment]
) -> Iterator[tuple[Segment, Tensor]]:
    """Evaluate consecutive segments on images (B, C, H, W), keeping the path's activations between them.

    Yields each segment with its leaves' logits (W, B, K).

    Raises:
        SpecError: a segment does not exist.
        ValueError: the segments do not follow one another from leaf 0.
    """
    path: dict[Node, Tensor] = {}
    done = 0
    for segment in segments:
        if segment.start != done:
            raise ValueError(f"segment {segment} does not follow {done} evaluated leaves")
        module = segment_module(model, segment)
        logits, kept = module(images if module.entry is None else path[module.entry])
        for block, activation in zip(module.kept, kept, strict=True):
            path = {node: stored for node, stored in path.items() if node.block != block}
            path[Node(block, module.fresh[block][-1])] = activation
        yield segment, logits
        done = segment.stop


def refine(model: HierarchicalEnsemble, images: Tensor) -> Iterator[Tensor]:
    """Ensemble outputs y_1, y_2, ..., y_N (Eq. 1), each (B, K): the anytime inference of Figure 1."""
    total: Tensor | None = None
    steps = [Segment(leaf, 1) for leaf in range(model.tree.leaves)]
    for segment, logits in evaluate_segments(model, images, steps):
        total = logits[0] if total is None else total + logits[0]
        yield total / segment.stop
