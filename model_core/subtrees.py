"""The grouped form cut into subtrees, for training on a CPU: each is computed by a thread of its own.

Below a branching the subtrees have nothing in common but what they start from. Computed apart, a thread waits for the
others twice a step instead of twice a layer, which on a machine that does other things as well is most of the time, and
a grouped convolution over fewer groups is the faster one even on a single thread. The weights are the model's own; only
the order of the computation differs.

Shape legend: B batch, C channels of one node, L leaves, K classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from model_core.group_major import GroupMajor
from model_core.grouped import HierarchicalEnsemble
from model_core.layers import Block
from model_core.tree import Tree

__all__ = ["Subtrees"]


class Subtrees:
    """A model's forward pass in this form, in training or not, as the model is.

    Args:
        threads: how many compute, one at least. There are as many subtrees, two at least, as far as the tree has that
            many of one size.
    """

    def __init__(self, model: HierarchicalEnsemble, *, threads: int) -> None:
        tree, cut = model.tree, _cut(model.tree, threads)
        assert cut is not None
        self.model = model
        self.cut = cut
        below = [model.block(index) for index in range(cut.block, tree.blocks)]
        self.parameters = [parameter for block in below for parameter in block.parameters()]
        self.parts = [_part(below, number, cut.parts) for number in range(cut.parts)]
        norms = [module for block in below for module in block.modules() if isinstance(module, nn.BatchNorm2d)]
        self._counts = [norm.num_batches_tracked for norm in norms if norm.num_batches_tracked is not None]
        self.pool = _pool(min(threads, cut.parts), threads_each=max(1, threads // cut.parts))

    @staticmethod
    def supports(model: HierarchicalEnsemble, *, threads: int) -> bool:
        """Whether the tree can be cut, and every layer is one of those of the paper's tables: none draws at random,
        which would depend on the threads' order, or writes to its input, which subtrees share."""
        return _cut(model.tree, threads) is not None and GroupMajor.supports(model)

    def __call__(self, images: Tensor) -> Tensor:
        """Normalised images (B, C, H, W) to the logits of every leaf, (L, B, K)."""
        model, x = self.model, images
        for index in range(self.cut.block):
            x = model.block(index)(x)
        for part in self.parts:
            if part.training != model.training:
                part.train(model.training)
        if model.training:
            torch._foreach_add_(self._counts, 1)
        logits: Tensor = _Apart.apply(x, self, *self.parameters)
        return logits.view(len(logits), model.tree.leaves, -1).transpose(0, 1)


class _Cut(NamedTuple):
    """Where a tree is cut: from this block on, into so many subtrees, each below one node of the block before."""

    block: int
    parts: int


def _cut(tree: Tree, threads: int) -> _Cut | None:
    """The cut into the most subtrees of one size that threads are there for, or into two; None where there is none."""
    for parts in range(min(max(threads, 2), tree.leaves), 1, -1):
        block = next((block for block in range(tree.blocks) if tree.width(block) % parts == 0), None)
        if block is not None and tree.branching[block] % (tree.width(block) // parts) == 0:
            return _Cut(block, parts)
    return None


def _part(below: Sequence[Block], number: int, parts: int) -> nn.Sequential:
    """The nodes of a subtree. They share the weights' memory and have gradients of their own."""
    blocks, parents = [], 1
    for block in below:
        nodes = range(number * block.nodes // parts, (number + 1) * block.nodes // parts)
        blocks.append(block.select(nodes, parents=parents))
        parents = len(nodes)
    part = nn.Sequential(*blocks).train(blocks[0].training)
    for module in part.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.num_batches_tracked = None  # all subtrees would count in the same place
    return part


def _parents(form: Subtrees) -> int:
    """How many nodes the subtrees stand below."""
    return form.model.tree.width(form.cut.block - 1) if form.cut.block else 1


def _pool(threads: int, *, threads_each: int) -> ThreadPoolExecutor:
    """Threads that compute, each with so many of PyTorch's own."""
    before, ready = torch.get_num_threads(), Barrier(threads + 1)

    def begin() -> None:
        torch.set_num_threads(threads_each)  # of the calling thread, and of those that begin later
        ready.wait()

    pool = ThreadPoolExecutor(threads, thread_name_prefix="subtree", initializer=begin)
    for _ in range(threads):
        pool.submit(int)
    ready.wait()
    torch.set_num_threads(before)
    return pool


class _Apart(torch.autograd.Function):
    """What the nodes of one block (B, nodes*C, H, W) lead to, computed subtree by subtree: (B, L*K)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, form: Subtrees, *parameters: Tensor) -> Tensor:
        kind, differentiated = x.device.type, any(ctx.needs_input_grad)
        computed_in = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else None

        def through(part: nn.Module, part_x: Tensor) -> Tensor:
            with (
                torch.set_grad_enabled(differentiated),
                torch.autocast(kind, computed_in, enabled=computed_in is not None),
            ):
                result: Tensor = part(part_x)
            return result

        parents = x.detach().chunk(_parents(form), dim=1)
        ctx.form = form
        ctx.inputs = [
            parents[number * len(parents) // form.cut.parts].detach().requires_grad_(ctx.needs_input_grad[0])
            for number in range(form.cut.parts)
        ]
        ctx.outputs = list(form.pool.map(through, form.parts, ctx.inputs))
        return torch.cat([output.detach() for output in ctx.outputs], dim=1)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor | None, ...]:
        form: Subtrees = ctx.form

        def back(part: nn.Module, output: Tensor, gradient: Tensor) -> list[Tensor]:
            part.zero_grad()
            torch.autograd.backward(output, gradient)
            return [parameter.grad for parameter in part.parameters() if parameter.grad is not None]

        of_outputs = gradients[0].chunk(form.cut.parts, dim=1)
        of_parts = list(form.pool.map(back, form.parts, ctx.outputs, of_outputs))
        of_parameters = [torch.cat(of_nodes) for of_nodes in zip(*of_parts, strict=True)]
        if not ctx.needs_input_grad[0]:
            return None, None, *of_parameters
        share = form.cut.parts // _parents(form)
        of_x = [sum(x.grad for x in ctx.inputs[first : first + share]) for first in range(0, form.cut.parts, share)]
        return torch.cat(of_x, dim=1), None, *of_parameters
