"""Bring your own network: a hierarchical ensemble of any blocks (the paper's conclusion).

Write your network as a list of factories, one per block, each returning a fresh, ordinary module for one
branch; the last one ends in the logits (B, K). Any shapes may flow between the blocks, with the batch
first:

    def blocks(spec: ModelSpec) -> list[Block]:
        stages = [Stem, lambda: Stage(64, 128), lambda: Stage(128, 256), lambda: Head(256, spec.classes)]
        return replicated(spec, stages)

    SPEC = ModelSpec(name="mine", family="mine", branching=(1, 2, 2, 4), classes=10, input_shape=(3, 32, 32))
    model = HierarchicalEnsemble(SPEC, blocks(SPEC))

is a model like any other: it can be evaluated, its costs counted, exported for serving. The commands
know it by name, and checkpoints rebuild it, where your package is installed and declares the two in its
pyproject.toml:

    [project.entry-points."hne_serve.architectures"]
    mine = "mypackage.network:SPEC"

    [project.entry-points."hne_serve.families"]
    mine = "mypackage.network:blocks"

A family's name is the spec's `family`; an architecture's is what `--architecture` is given. Names that are
built in or declared twice are refused. Serving needs your package in the PyTorch runner only.
`model_core.transformer` is a complete example that is no convolutional network.

Branches run one after the other here. Where that is too slow, write a `GroupedBlock` as `resnet` does.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy
from typing import Self

import torch
from torch import Tensor, nn

from model_core.errors import SpecError
from model_core.layers import Block
from model_core.spec import ModelSpec

__all__ = ["ReplicatedBlock", "replicated"]


class ReplicatedBlock(Block):
    """One level whose nodes are separate, ordinary modules.

    Activations (B, parents*D, ...) hold the parents' outputs one after the other along dimension 1.
    """

    def __init__(self, branches: Sequence[nn.Module], *, parents: int) -> None:
        super().__init__(parents=parents, nodes=len(branches))
        self.branches = nn.ModuleList(branches)

    def forward(self, x: Tensor) -> Tensor:
        inputs = x.chunk(self.parents, dim=1) if self.parents > 1 else (x,)
        fan_out = self.nodes // self.parents
        outputs = [branch(inputs[node // fan_out]) for node, branch in enumerate(self.branches)]
        return torch.cat(outputs, dim=1) if len(outputs) > 1 else outputs[0]

    def select(self, nodes: range, *, parents: int) -> Self:
        twins = [_twin(self.branches[node]) for node in nodes]
        return type(self)(twins, parents=parents).train(self.training)


def _twin(module: nn.Module) -> nn.Module:
    """Another module with the same parameters and buffers, which may be in another mode."""
    twin = copy(module)
    twin._modules = {name: child and _twin(child) for name, child in module._modules.items()}
    return twin


def replicated(spec: ModelSpec, factories: Sequence[Callable[[], nn.Module]]) -> list[ReplicatedBlock]:
    """The levels of an ensemble of ordinary modules: each factory is called once per node of its block.

    Raises:
        SpecError: not one factory per branching factor, or two calls returned the same module.
    """
    tree = spec.tree
    if len(factories) != tree.blocks:
        raise SpecError(f"{spec.name}: {len(factories)} block factories for {tree.blocks} branching factors")
    levels = []
    for block, factory in enumerate(factories):
        branches = [factory() for _ in range(tree.width(block))]
        if len({id(branch) for branch in branches}) != len(branches):
            raise SpecError(f"{spec.name}: the factory of block {block} must return a new module at each call")
        levels.append(ReplicatedBlock(branches, parents=tree.width(block - 1) if block else 1))
    return levels
