"""Grouped layers: every branch of a level in one operation (Figure 2).

Shape legend: B batch, G groups (branches), C channels of one branch, H W image size, K classes.
Branches lie one after the other along dimension 1, so an activation is (B, G*C, H, W). Every parameter
and buffer of a grouped layer stacks the nodes it belongs to along dimension 0, in the same order; that is
what lets `GroupedBlock.select` cut single nodes out of a level.

Where a branch splits, children 2k and 2k+1 read the same parent k. A grouped convolution with `parents`
groups whose output channels hold both children computes exactly that, so nothing is ever replicated.
"""

from __future__ import annotations

import abc
import math
from collections.abc import Iterable
from contextlib import nullcontext
from typing import Self, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights

from model_core.spec import ModelSpec, Row

__all__ = ["Block", "ConvNorm", "GroupedBlock", "GroupedLinear", "TableBlock", "fold_batch_norm", "table_blocks"]


class Block(nn.Module, abc.ABC):
    """All nodes of one level of the tree, or some of them.

    `forward` takes (B, parents*C, ...) to (B, nodes*C', ...); consecutive nodes share a parent.
    The last block of a model returns logits, (B, nodes*K).
    """

    def __init__(self, *, parents: int, nodes: int) -> None:
        super().__init__()
        if nodes % parents:
            raise ValueError(f"{nodes} nodes cannot share {parents} parents evenly")
        self.parents = parents
        self.nodes = nodes

    @abc.abstractmethod
    def select(self, nodes: range, *, parents: int) -> Self:
        """The block of some of the nodes, fed by `parents` parents. It shares the weights' memory."""


class GroupedBlock(Block):
    """A block whose layers are all grouped, so that selecting nodes is slicing its state."""

    @abc.abstractmethod
    def resized(self, *, parents: int, nodes: int) -> Self:
        """The same layers for another number of nodes, uninitialised."""

    def select(self, nodes: range, *, parents: int) -> Self:
        with torch.device("meta"):
            part = self.resized(parents=parents, nodes=len(nodes))
        if not any(isinstance(module, nn.BatchNorm2d) for module in self.modules()):
            fold_batch_norm(part)
        part.load_state_dict(
            {name: self._rows(tensor, nodes) for name, tensor in self.state_dict(keep_vars=True).items()},
            assign=True,
        )
        return part.train(self.training)

    def _rows(self, tensor: Tensor, nodes: range) -> Tensor:
        """The part of a stacked tensor that belongs to some nodes; a view."""
        if tensor.ndim == 0:  # num_batches_tracked
            return tensor
        per_node = tensor.shape[0] // self.nodes
        return tensor.detach()[nodes.start * per_node : nodes.stop * per_node]


class TableBlock(GroupedBlock):
    """A block given by rows of a table: each row's layer, stacked as often as the row says.

    The first layer reads `parents` branches and writes `nodes`; from the second on the groups are nodes.

    Raises:
        SpecError: a row names a layer that the family does not have.
    """

    def __init__(self, rows: Iterable[Row], *, channels_in: int, classes: int, parents: int, nodes: int) -> None:
        super().__init__(parents=parents, nodes=nodes)
        self.rows, self.channels_in, self.classes = tuple(rows), channels_in, classes
        layers: list[nn.Module] = []
        channels, groups = channels_in, parents
        for row in self.rows:
            for repetition in range(row.repetitions):
                stride = row.stride if repetition == 0 else 1
                layers.append(self.layer(row, channels, stride=stride, groups=groups))
                channels, groups = row.channels, nodes
        self.layers = nn.Sequential(*layers)

    @abc.abstractmethod
    def layer(self, row: Row, channels_in: int, *, stride: int, groups: int) -> nn.Module:
        """One layer of a row, from `groups` branches of `channels_in` to `self.nodes` branches."""

    def convolution(self, row: Row, channels_in: int, *, stride: int, groups: int, activation: nn.Module) -> ConvNorm:
        """A plain "conv1x1" or "conv3x3" row with batch norm."""
        channels_out, kernel = self.nodes * row.channels, int(row.layer[4])
        return ConvNorm(groups * channels_in, channels_out, kernel, stride=stride, groups=groups, activation=activation)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.layers(x)
        return result

    def resized(self, *, parents: int, nodes: int) -> Self:
        return type(self)(self.rows, channels_in=self.channels_in, classes=self.classes, parents=parents, nodes=nodes)


_T = TypeVar("_T", bound=TableBlock)


def table_blocks(spec: ModelSpec, block_type: type[_T]) -> list[_T]:
    """The levels of an ensemble whose blocks are rows of a table, root first."""
    tree, blocks, channels = spec.tree, [], spec.input_shape[0]
    for block, rows in enumerate(spec.rows):
        parents = tree.width(block - 1) if block else 1
        blocks.append(
            block_type(rows, channels_in=channels, classes=spec.classes, parents=parents, nodes=tree.width(block))
        )
        channels = rows[-1].channels
    return blocks


class ConvNorm(nn.Module):
    """Convolution, batch norm and an activation. `fold` moves the norm into the convolution.

    With `starts_at_zero` its output is zero at first, for the end of a residual branch: the network starts shallow
    and a learning rate of 0.1 does not overwhelm its first steps (Goyal et al. 2017, section 5.1).
    """

    def __init__(
        self,
        channels_in: int,
        channels_out: int,
        kernel: int = 1,
        *,
        stride: int = 1,
        groups: int = 1,
        activation: nn.Module | None = None,
        starts_at_zero: bool = False,
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels_in, channels_out, kernel, stride, kernel // 2, groups=groups, bias=False)
        self._strided_depthwise = groups == channels_in and stride > 1
        # He's initialisation; fan_in is per group, so every branch starts like a network of its own.
        nn.init.kaiming_normal_(self.conv.weight, mode="fan_in", nonlinearity="relu")
        norm = nn.BatchNorm2d(channels_out)
        if starts_at_zero:
            nn.init.zeros_(norm.weight)
        self.norm: nn.Module = norm
        self.activation = activation if activation is not None else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.activation(self.norm(self._convolved(x)))
        return result

    def _convolved(self, x: Tensor) -> Tensor:
        """The convolution; in float32 where bf16 is much slower.

        PyTorch's CPU kernels have no fast gradient of a strided depthwise convolution in bf16: 61 ms instead of 5 for
        256 channels of 16x16 and 64 images on two cores, a sixth of a training step of hne_small.
        """
        slow = self._strided_depthwise and torch.is_autocast_enabled("cpu")
        with torch.autocast("cpu", enabled=False) if slow else nullcontext():
            result: Tensor = self.conv(x.float() if slow else x)
        return result

    def fold(self) -> None:
        """Replace the batch norm by a bias of the convolution. For inference only."""
        norm = self.norm
        if not isinstance(norm, nn.BatchNorm2d):
            return
        assert norm.running_mean is not None
        assert norm.running_var is not None
        weight, bias = fuse_conv_bn_weights(
            self.conv.weight, None, norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
        )
        self.conv.weight, self.conv.bias = weight, bias
        self.norm = nn.Identity()


class GroupedLinear(nn.Module):
    """One linear layer per node: (B, G*C) -> (B, G*K)."""

    def __init__(self, channels_in: int, channels_out: int, *, groups: int) -> None:
        super().__init__()
        self.groups = groups
        self.weight = nn.Parameter(torch.empty(groups * channels_out, channels_in))
        self.bias = nn.Parameter(torch.empty(groups * channels_out))
        bound = 1 / math.sqrt(channels_in)  # as torch.nn.Linear
        nn.init.uniform_(self.weight, -bound, bound)
        nn.init.uniform_(self.bias, -bound, bound)

    def forward(self, x: Tensor) -> Tensor:
        if self.groups == 1:
            return nn.functional.linear(x, self.weight, self.bias)
        x_gbc = x.reshape(x.shape[0], self.groups, -1).transpose(0, 1)
        weight_gck = self.weight.view(self.groups, -1, self.weight.shape[1]).transpose(1, 2)
        y_gbk = torch.bmm(x_gbc, weight_gck)
        return y_gbk.transpose(0, 1).flatten(1) + self.bias


def fold_batch_norm(module: nn.Module) -> None:
    """Fold every batch norm of `ConvNorm` layers into its convolution, in place."""
    for child in module.modules():
        if isinstance(child, ConvNorm):
            child.fold()
