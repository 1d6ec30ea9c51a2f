"""Weights to start from: those of another run or of a package, of the same tree or of a smaller one that is grown.

A single network trains several times as fast as the ensemble that it is part of. Grown, every node starts as the node
of the smaller tree that it descends from, so that each leaf predicts what the smaller tree does; all but the first copy
of a node are moved a little, since equal siblings have equal gradients and would stay equal for ever.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from model_core.build import build_model
from model_core.grouped import HierarchicalEnsemble
from model_core.layers import GroupedBlock
from training.errors import ConfigError
from training.run_state import Trained

__all__ = ["check_start", "remarks", "seen", "start_from"]

NOISE = 0.1
"""Standard deviation of the noise on a copy's weights, relative to the weights' own."""


def remarks(source: Trained, *, class_names: tuple[str, ...], held_out: float) -> Iterator[str]:
    """What a person should know of a start, where the new run's data is not the source's."""
    if source.class_names != class_names:
        yield "its classes are others: the classifiers start anew"
    else:
        yield from seen(source.held_out, held_out)


def seen(theirs: float | None, ours: float) -> Iterator[str]:
    """What to know of another run that held out fewer images than this one does, if it is known how many it did."""
    if theirs is not None and theirs < ours:
        yield f"it has seen images held out here, so temperatures will be too low; use --held-out {theirs}"


def check_start(model: HierarchicalEnsemble, source: HierarchicalEnsemble) -> None:
    """Make sure that a model can start from the weights of another.

    Raises:
        ConfigError: the models' blocks differ, or the other tree is no part of this one.
    """
    ours, theirs = model.spec, source.spec
    free = {"name", "branching", "classes"}
    if model.tree.blocks != source.tree.blocks or ours.model_dump(exclude=free) != theirs.model_dump(exclude=free):
        raise ConfigError(f"--initial: its weights are of {theirs.name}, another network")
    for index in range(model.tree.blocks):
        block, width, from_width = model.block(index), model.tree.width(index), source.tree.width(index)
        if width % from_width or not (width == from_width or isinstance(block, GroupedBlock)):
            reason = "" if isinstance(block, GroupedBlock) else ": its branches are separate modules (ReplicatedBlock)"
            raise ConfigError(
                f"--initial: block {index} has {from_width} nodes there, which cannot become {width} here{reason}"
            )


@torch.no_grad()
def start_from(model: HierarchicalEnsemble, source: HierarchicalEnsemble, *, same_classes: bool = True) -> None:
    """Give a model the weights of another of the same blocks, whose levels' widths divide its own.

    What depends on the number of classes, the classifiers, keeps its own weights where the classes are not the same.
    Random numbers are drawn from PyTorch's global generator.

    Raises:
        ConfigError: the models' blocks differ, or the other tree is no part of this one.
    """
    check_start(model, source)
    ours, theirs = model.spec, source.spec
    # What has another shape in this one depends on the number of classes; nothing has where the classes are the same.
    with torch.random.fork_rng(devices=[]):  # not on "meta": a network of one's own may read numbers while it is built
        classes = ours.classes if same_classes and ours.classes == theirs.classes else ours.classes + 1
        other = build_model(ours.replace(classes=classes))
    for index in range(model.tree.blocks):
        block, width, from_width = model.block(index), model.tree.width(index), source.tree.width(index)
        state, others = block.state_dict(), other.block(index).state_dict()
        for name, tensor in source.block(index).state_dict().items():
            if state[name].shape == others[name].shape:
                state[name] = _grown(tensor, nodes=from_width, copies=width // from_width)
        block.load_state_dict(state)


def _grown(tensor: Tensor, *, nodes: int, copies: int) -> Tensor:
    """A tensor that stacks nodes along dimension 0, with so many copies of each, one after the other."""
    if copies == 1 or tensor.ndim == 0:  # the latter: num_batches_tracked
        return tensor
    per_node = tensor.reshape(nodes, 1, -1, *tensor.shape[1:])
    grown = per_node.repeat(1, copies, *(1 for _ in tensor.shape))
    if tensor.ndim > 1:  # a weight; biases and what belongs to batch norm stay
        scale = NOISE * per_node.std(dim=tuple(range(2, per_node.ndim)), keepdim=True)
        grown[:, 1:] += scale * torch.randn_like(grown[:, 1:])
    return grown.reshape(-1, *tensor.shape[1:])
