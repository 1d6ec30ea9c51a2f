"""Weights to start from: those of another run or of a package, of the same tree or of a smaller one that is grown.

A single network trains several times as fast as the ensemble that it is part of. Grown, every node starts as the node
of the smaller tree that it descends from, so that each leaf predicts what the smaller tree does; all but the first copy
of a node are moved a little, since equal siblings have equal gradients and would stay equal for ever.
"""

from __future__ import annotations

import torch
from torch import Tensor

from model_core.grouped import HierarchicalEnsemble
from model_core.layers import GroupedBlock
from training.errors import ConfigError

__all__ = ["start_from"]

NOISE = 0.1
"""Standard deviation of the noise on a copy's weights, relative to the weights' own."""


@torch.no_grad()
def start_from(model: HierarchicalEnsemble, source: HierarchicalEnsemble) -> None:
    """Give a model the weights of another of the same blocks, whose levels' widths divide its own.

    Random numbers are drawn from PyTorch's global generator.

    Raises:
        ConfigError: the models' blocks differ, or the other tree is no part of this one.
    """
    ours, theirs = model.spec, source.spec
    if ours.replace(name=theirs.name, branching=theirs.branching) != theirs:
        raise ConfigError(f"--initial: its weights are of {theirs.name} for {theirs.classes} classes, another network")
    for index in range(model.tree.blocks):
        width, from_width = model.tree.width(index), source.tree.width(index)
        if width == from_width:
            model.block(index).load_state_dict(source.block(index).state_dict())
            continue
        if width % from_width or not isinstance(model.block(index), GroupedBlock):
            raise ConfigError(
                f"--initial: block {index} has {from_width} nodes there, which cannot become {width} here"
            )
        grown = {
            name: _grown(tensor, nodes=from_width, copies=width // from_width)
            for name, tensor in source.block(index).state_dict().items()
        }
        model.block(index).load_state_dict(grown)


def _grown(tensor: Tensor, *, nodes: int, copies: int) -> Tensor:
    """A tensor that stacks nodes along dimension 0, with so many copies of each, one after the other."""
    if tensor.ndim == 0:  # num_batches_tracked
        return tensor
    per_node = tensor.reshape(nodes, 1, -1, *tensor.shape[1:])
    grown = per_node.repeat(1, copies, *(1 for _ in tensor.shape))
    if tensor.ndim > 1:  # a weight; biases and what belongs to batch norm stay
        scale = NOISE * per_node.std(dim=tuple(range(2, per_node.ndim)), keepdim=True)
        grown[:, 1:] += scale * torch.randn_like(grown[:, 1:])
    return grown.reshape(-1, *tensor.shape[1:])
