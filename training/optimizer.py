"""SGD in which every node of the tree learns at about the rate of a network of its own, unless told otherwise."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from model_core.grouped import HierarchicalEnsemble
from model_core.tree import Tree
from training.config import LossName, TrainConfig

__all__ = ["gradient_weight", "sgd"]


def gradient_weight(loss: LossName, tree: Tree, block: int, sizes: Sequence[int]) -> float:
    """How many networks' worth of gradient the first node of a block is taken to receive from a loss.

    Each network has weight 1 in L_I, so a node has as many as leaves below it: 16 at the root, one at a leaf. The same
    holds for the boosted loss and, terms counted alike, for L_D mixed with L_I.

    In L_S a nested ensemble of n networks gives each of them 1/n of its gradient, so that of its first s leaves a node
    receives sum over sizes of min(n, s) / n: 5 at the root of the paper's tree, and 31/16 at the first leaf.

    L_HD mixed with L_I is taken for L_I, which it is not: its terms, counted like those of L_S, leave out the full
    ensemble, and with alpha 0.5 the first nodes of the paper's tree receive 10, 6, 3.75, 2.375 and 1.4375 networks'
    worth where 16, 8, 4, 2 and 1 are assumed, and the leaves 9 to 16, which no smaller ensemble holds, 0.5. That
    counts for norms and classifiers. A convolution before a batch norm turns as fast under any multiple of its
    gradient once its length has settled, in about 1 / (2 lr wd) steps of SGD, a tenth of that with momentum 0.9. It
    stays so, that records can be compared.
    """
    leaves = tree.span(block)
    if loss != "s":
        return float(leaves)
    terms = (tree.leaves - 1).bit_length() + 1
    return terms / len(sizes) * sum(min(size, leaves) / size for size in sizes)


def sgd(model: HierarchicalEnsemble, config: TrainConfig, sizes: Sequence[int]) -> torch.optim.SGD:
    """The optimizer, a group per block; the trainer sets each group's `lr` to the schedule's rate over its `weight`,
    which is 1 where `node_rates` is "same".

    The losses sum over networks. One rate for all nodes is too high for the root (its batch norms' scales jump) or too
    low for the leaves. Dividing the rate by the gradient's weight, and multiplying the weight decay by it, is exactly
    SGD on the mean gradient of the leaves below. Measured with hne_tiny on one seed, mean of steps 76 to 100: a
    cross-entropy of 2.26, against 2.29 with sums everywhere and 2.31 with means everywhere.

    Where a loss weighs the nodes of a block differently (L_S does), they share the rate of the first: it is on the path
    of ensemble size 1, whose every node then learns like a network of its own, and the others learn as much less as
    the loss cares less for them. A short run showed no difference in accuracy between this and L_I's weights (ledger,
    2e); it is so that the comparison of L_S with L_I at ensemble size 1 is not one of learning rates.
    """
    assert config.weight_decay is not None
    groups = []
    for index in range(model.tree.blocks):
        own = config.node_rates == "own"
        weight = gradient_weight(config.loss, model.tree, index, sizes) if own else 1.0
        weight_decay = config.weight_decay * weight
        groups.append({"params": model.block(index).parameters(), "weight": weight, "weight_decay": weight_decay})
    on_gpu = next(model.parameters()).is_cuda
    return torch.optim.SGD(groups, lr=config.lr, momentum=config.momentum, fused=on_gpu or None)
