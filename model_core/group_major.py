"""The grouped form laid out for training on a GPU: every branch's activations lie together, (G, P, C).

The weights are the model's own, as stacked as they are there; only the order of the computation differs. A grouped
pointwise convolution becomes one batched matrix product over contiguous matrices, a depthwise one the sum of as many
shifted products as its kernel has elements, which a compiler fuses with what surrounds them. Written for
`torch.compile`: without it, slower than the convolutions.

Shape legend: G groups (branches), B batch, H W image size, P pixels of all images (B H W), C channels of one branch, L
leaves, K classes.
"""

from __future__ import annotations

from functools import singledispatch
from typing import NamedTuple

import torch
from torch import Tensor, nn

from model_core.group_operations import batch_normalised, depthwise, precise, product
from model_core.grouped import HierarchicalEnsemble
from model_core.layers import ConvNorm, GroupedLinear, TableBlock
from model_core.mobilenet import InvertedResidual
from model_core.resnet import Bottleneck

__all__ = ["GroupMajor"]


class GroupMajor(nn.Module):
    """A model's forward pass in this layout, in training or not, as its batch norms are.

    What these count, `num_batches_tracked`, is left to `count_batch`: a kernel for each count costs more than that.
    """

    def __init__(self, model: HierarchicalEnsemble) -> None:
        super().__init__()
        self.model = model
        self._norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]

    @staticmethod
    def supports(model: HierarchicalEnsemble) -> bool:
        """Whether every layer is one of those of the paper's tables, with settings that this form computes."""
        return all(_has_form(block) for block in model.blocks)

    def forward(self, images: Tensor) -> Tensor:
        """Normalised images (B, C, H, W) to the logits of every leaf, (L, B, K)."""
        x = _of_grid(images.permute(0, 2, 3, 1).unsqueeze(0))
        for block in self.model.blocks:
            assert isinstance(block, TableBlock)
            x = _through(block.layers, x)
        return x.values

    @torch.no_grad()
    def count_batch(self) -> None:
        """Tell every batch norm that it has seen a batch."""
        if counts := [norm.num_batches_tracked for norm in self._norms if norm.num_batches_tracked is not None]:
            torch._foreach_add_(counts, 1)


class _Maps(NamedTuple):
    """Feature maps (G, P, C) of `height` times `width` pixels for each image: P = B H W."""

    values: Tensor
    height: int
    width: int

    @property
    def grid(self) -> Tensor:
        """(G, B, H, W, C)."""
        groups, _, channels = self.values.shape
        return self.values.reshape(groups, -1, self.height, self.width, channels)

    def with_values(self, values: Tensor) -> _Maps:
        """Others for the same pixels."""
        return self._replace(values=values)

    def regrouped(self, groups: int) -> _Maps:
        """The same channels in other groups: the children of a branch apart, or together."""
        now, pixels, channels = self.values.shape
        if groups == now:
            return self
        if groups > now:
            apart = self.values.view(now, pixels, groups // now, -1).transpose(1, 2)
            return self.with_values(apart.reshape(groups, pixels, -1))
        together = self.values.view(groups, now // groups, pixels, channels).transpose(1, 2)
        return self.with_values(together.reshape(groups, pixels, -1))


def _of_grid(grid: Tensor) -> _Maps:
    """Of values (G, B, H, W, C)."""
    groups, _, height, width, channels = grid.shape
    return _Maps(grid.reshape(groups, -1, channels), height, width)


def _has_form(layer: nn.Module) -> bool:
    """Whether `_through` computes what a layer does. Types are compared exactly: a subclass may compute anything."""
    if isinstance(layer, TableBlock):
        return type(layer).forward is TableBlock.forward and _has_form(layer.layers)
    if type(layer) is ConvNorm:
        return _is_plain(layer.conv) and _tracks(layer.norm) and _has_form(layer.activation)
    if type(layer) is nn.AdaptiveAvgPool2d:
        return layer.output_size in (1, (1, 1))
    if type(layer) is nn.Sequential:
        kinds = [type(part) for part in layer]  # only what was pooled to a pixel is flat here
        flattens = [index for index, kind in enumerate(kinds) if kind is nn.Flatten]
        if not all(index and kinds[index - 1] is nn.AdaptiveAvgPool2d for index in flattens):
            return False
    return type(layer) in COMPUTED and all(map(_has_form, layer.children()))


def _is_plain(conv: nn.Conv2d) -> bool:
    """Whether a convolution is one without a bias that keeps the size of its input but for the stride."""
    return (
        type(conv) is nn.Conv2d
        and conv.bias is None
        and conv.padding_mode == "zeros"
        and conv.dilation == (1, 1)
        and all(size % 2 == 1 for size in conv.kernel_size)
        and conv.padding == tuple(size // 2 for size in conv.kernel_size)
    )


def _tracks(norm: nn.Module) -> bool:
    """Whether a batch norm is one with weights and running statistics."""
    return (
        type(norm) is nn.BatchNorm2d
        and {"weight", "bias"} == {name for name, _ in norm.named_parameters()}
        and norm.track_running_stats
        and norm.momentum is not None
    )


@singledispatch
def _through(layer: nn.Module, x: _Maps) -> _Maps:
    """What a layer makes of feature maps."""
    return x.with_values(layer(x.values))  # an activation function


@_through.register
def _(layer: nn.Sequential, x: _Maps) -> _Maps:
    for part in layer:
        x = _through(part, x)
    return x


@_through.register
def _(layer: ConvNorm, x: _Maps) -> _Maps:
    conv, norm = layer.conv, layer.norm
    assert isinstance(norm, nn.BatchNorm2d)
    if conv.kernel_size == (1, 1):
        x = _pointwise(conv, x)
    elif conv.groups == conv.in_channels == conv.out_channels:
        x = _depthwise(conv, x)
    else:
        x = _convolution(conv, x)
    return x.with_values(layer.activation(_normalised(norm, x.values)))


@_through.register
def _(layer: Bottleneck, x: _Maps) -> _Maps:
    total = _sum(_through(layer.body, x), _through(layer.shortcut, x))
    return total.with_values(layer.relu(total.values))


@_through.register
def _(layer: InvertedResidual, x: _Maps) -> _Maps:
    y = _through(layer.body, x)
    return _sum(x, y) if layer.residual else y


@_through.register
def _(layer: nn.AdaptiveAvgPool2d, x: _Maps) -> _Maps:
    values = x.values
    images = values.reshape(len(values), -1, x.height * x.width, values.shape[2])
    return _Maps(precise(images).mean(2).to(values.dtype), 1, 1)


@_through.register
def _(layer: nn.Flatten, x: _Maps) -> _Maps:
    return x  # pooled to a pixel, it is flat


@_through.register
def _(layer: GroupedLinear, x: _Maps) -> _Maps:
    x = x.regrouped(layer.groups)
    weight_gck = layer.weight.view(layer.groups, -1, layer.weight.shape[1]).transpose(1, 2)
    return x.with_values(torch.bmm(x.values, weight_gck) + layer.bias.view(layer.groups, 1, -1))


COMPUTED = (
    Bottleneck, InvertedResidual, GroupedLinear, nn.Sequential, nn.Flatten, nn.ReLU, nn.ReLU6, nn.Identity,
)  # fmt: skip
"""The layers that `_through` computes whatever their settings."""


def _sum(x: _Maps, y: _Maps) -> _Maps:
    groups = max(len(x.values), len(y.values))
    return x.with_values(x.regrouped(groups).values + y.regrouped(groups).values)


def _pointwise(conv: nn.Conv2d, x: _Maps) -> _Maps:
    """A 1x1 convolution as a product of matrices for each group."""
    vertical, horizontal = conv.stride
    x = x.regrouped(conv.groups)
    if (vertical, horizontal) != (1, 1):
        x = _of_grid(x.grid[:, :, ::vertical, ::horizontal])
    dtype = _multiplied_in(x.values)
    weight_gdc = conv.weight.view(conv.groups, -1, x.values.shape[2])
    return x.with_values(product(x.values.to(dtype), weight_gdc.transpose(1, 2).to(dtype)))


def _depthwise(conv: nn.Conv2d, x: _Maps) -> _Maps:
    """A depthwise convolution, (rows, columns) of its kernel over the pixels of each channel."""
    vertical, horizontal = conv.stride
    dtype = _multiplied_in(x.values)
    weight = conv.weight.view(len(x.values), 1, 1, 1, x.values.shape[2], *conv.kernel_size)
    return _of_grid(depthwise(x.grid.to(dtype), weight.to(dtype), (vertical, horizontal)))


def _convolution(conv: nn.Conv2d, x: _Maps) -> _Maps:
    """Any other convolution, as the library does it."""
    images = x.grid.permute(1, 0, 4, 2, 3).flatten(1, 2)
    y: Tensor = conv(images)
    return _of_grid(y.view(len(y), conv.groups, -1, *y.shape[2:]).permute(1, 0, 3, 4, 2))


def _normalised(norm: nn.BatchNorm2d, values: Tensor) -> Tensor:
    """Batch norm of (G, P, C): in training with the batch's statistics, which join the running ones."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    assert norm.momentum is not None
    groups, pixels, channels = values.shape
    weight, bias = (parameter.view(groups, 1, channels) for parameter in (norm.weight, norm.bias))
    if not norm.training:
        scale = weight * torch.rsqrt(norm.running_var.view(groups, 1, channels) + norm.eps)
        shift = bias - norm.running_mean.view(groups, 1, channels) * scale
        return torch.addcmul(shift, precise(values), scale).to(values.dtype)
    if pixels < 2:
        raise ValueError("batch norm needs more than one pixel to train on")
    result, mean, variance = batch_normalised(values, weight, bias, norm.eps)
    with torch.no_grad():
        norm.running_mean.lerp_(mean.flatten(), norm.momentum)
        norm.running_var.lerp_(variance.flatten() * (pixels / (pixels - 1)), norm.momentum)
    return result


def _multiplied_in(values: Tensor) -> torch.dtype:
    """What a convolution of these values would compute in here."""
    kind = values.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else values.dtype
