"""The grouped form laid out for training on a GPU: every branch's activations lie together, (G, P, C).

The weights are the model's own, as stacked as they are there; only the order of the computation differs. A grouped
pointwise convolution becomes one batched matrix product over contiguous matrices, a depthwise one nine shifted products
that a compiler fuses with what surrounds them. Written for `torch.compile`: without it, slower than the convolutions.

Shape legend: G groups (branches), B batch, H W image size, P pixels of all images (B H W), C channels of one branch, L
leaves, K classes.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import singledispatch
from math import gcd
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from model_core.grouped import HierarchicalEnsemble
from model_core.layers import ConvNorm, GroupedLinear, TableBlock
from model_core.mobilenet import InvertedResidual
from model_core.resnet import Bottleneck

__all__ = ["GroupMajor"]

PRODUCTS = 128
"""Matrix products at once, about: as many as a GPU has multiprocessors."""
PARTS, PART = 64, 512
"""A sum over all pixels is one of sums over about so many parts of them, of at most so many pixels."""


class GroupMajor(nn.Module):
    """A model's forward pass in this layout, for training: batch norm takes the batch's statistics.

    What it counts, `num_batches_tracked`, is left to `count_batch`, since a kernel for each count costs more than that.
    """

    def __init__(self, model: HierarchicalEnsemble) -> None:
        super().__init__()
        self.model = model
        norms = [x for x in model.modules() if isinstance(x, nn.BatchNorm2d)]
        self._counts = [x.num_batches_tracked for x in norms if x.num_batches_tracked is not None]

    @staticmethod
    def supports(model: HierarchicalEnsemble) -> bool:
        """Whether all of a model's blocks are of layers that have this form: those of the tables of the paper."""
        blocks = [model.block(index) for index in range(model.tree.blocks)]
        layers = [layer for block in blocks for layer in block.modules() if not isinstance(layer, TableBlock)]
        return all(isinstance(block, TableBlock) for block in blocks) and all(isinstance(x, KNOWN) for x in layers)

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
        torch._foreach_add_(self._counts, 1)


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
    return _Maps(images.float().mean(2).to(values.dtype), 1, 1)


@_through.register
def _(layer: nn.Flatten, x: _Maps) -> _Maps:
    return x  # pooled to a pixel, it is flat


@_through.register
def _(layer: GroupedLinear, x: _Maps) -> _Maps:
    weight_gck = layer.weight.view(layer.groups, -1, layer.weight.shape[1]).transpose(1, 2)
    return x.with_values(torch.bmm(x.values, weight_gck) + layer.bias.view(layer.groups, 1, -1))


KNOWN = (
    ConvNorm, Bottleneck, InvertedResidual, GroupedLinear,
    nn.Sequential, nn.AdaptiveAvgPool2d, nn.Flatten, nn.Conv2d, nn.BatchNorm2d, nn.ReLU, nn.ReLU6, nn.Identity,
)  # fmt: skip


def _sum(x: _Maps, y: _Maps) -> _Maps:
    groups = max(len(x.values), len(y.values))
    return x.with_values(x.regrouped(groups).values + y.regrouped(groups).values)


def _pointwise(conv: nn.Conv2d, x: _Maps) -> _Maps:
    """A 1x1 convolution as a product of matrices for each group."""
    vertical, horizontal = conv.stride
    x = x.regrouped(conv.groups)
    if (vertical, horizontal) != (1, 1):
        x = _of_grid(x.grid[:, :, ::vertical, ::horizontal])
    weight_gdc = conv.weight.view(conv.groups, -1, x.values.shape[2])
    return x.with_values(_Product.apply(x.values, weight_gdc.transpose(1, 2).to(x.values.dtype)))


def _depthwise(conv: nn.Conv2d, x: _Maps) -> _Maps:
    """A depthwise convolution, (rows, columns) of its kernel over the pixels of each channel."""
    weight = conv.weight.view(len(x.values), 1, 1, 1, x.values.shape[2], *conv.kernel_size)
    return _of_grid(_Depthwise.apply(x.grid, weight.to(x.values.dtype), conv.stride))


class _Depthwise(torch.autograd.Function):
    """(G, B, H, W, C) with odd kernels (G, 1, 1, 1, C, R, S), as the sum of their shifted products."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: tuple[int, int]) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride = stride
        products = [shifted * factor for shifted, factor in _shifts(x, weight, stride)]
        return sum(products[1:], products[0])

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor, Tensor, None]:
        x, weight = ctx.saved_tensors
        (gradient,), (vertical, horizontal) = gradients, ctx.stride
        spread = gradient
        if ctx.stride != (1, 1):
            spread = torch.zeros_like(x)
            spread[:, :, ::vertical, ::horizontal] = gradient
        products = [shifted * factor for shifted, factor in _shifts(spread, weight.flip(-1, -2), (1, 1))]
        of_x = sum(products[1:], products[0])
        sums = []
        for shifted, _ in _shifts(x, weight, ctx.stride):
            product = shifted.float() * gradient.float()
            sums.append(_parts(product.reshape(len(x), -1, x.shape[-1])).sum(2))
        of_weight = torch.stack(sums, -1).sum(1).view(weight.shape).to(weight.dtype)
        return of_x, of_weight, None


def _shifts(x: Tensor, weight: Tensor, stride: tuple[int, int]) -> Iterator[tuple[Tensor, Tensor]]:
    """What each element of a kernel sees of the maps (G, B, H, W, C), zero beyond their edges; and the element."""
    (rows, columns), (vertical, horizontal) = weight.shape[-2:], stride
    _, _, height, width, _ = x.shape
    padded = F.pad(x, (0, 0, columns // 2, columns // 2, rows // 2, rows // 2))
    for row in range(rows):
        for column in range(columns):
            seen = padded[:, :, row : row + height : vertical, column : column + width : horizontal]
            yield seen, weight[..., row, column]


def _convolution(conv: nn.Conv2d, x: _Maps) -> _Maps:
    """Any other convolution, as the library does it."""
    images = x.grid.permute(1, 0, 4, 2, 3).flatten(1, 2)
    y: Tensor = conv(images)
    return _of_grid(y.view(len(y), conv.groups, -1, *y.shape[2:]).permute(1, 0, 3, 4, 2))


def _normalised(norm: nn.BatchNorm2d, values: Tensor) -> Tensor:
    """Batch norm of (G, P, C) with the batch's statistics, which join the running ones."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    assert norm.momentum is not None
    groups, pixels, channels = values.shape
    weight, bias = (parameter.view(groups, 1, channels) for parameter in (norm.weight, norm.bias))
    result, mean, variance = _Normalise.apply(values, weight, bias, norm.eps)
    with torch.no_grad():
        norm.running_mean.lerp_(mean.flatten(), norm.momentum)
        norm.running_var.lerp_(variance.flatten() * (pixels / (pixels - 1)), norm.momentum)
    normalised: Tensor = result
    return normalised


class _Product(torch.autograd.Function):
    """(G, P, C) times weights (G, C, D) for P pixels.

    The weights' gradient is a sum over all pixels. As one product for each group it would keep as many multiprocessors
    busy as there are groups; so it is the sum of products over parts of the pixels.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return torch.bmm(x, weight)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        gradient = gradients[0]
        groups, pixels, channels = x.shape
        parts = gcd(pixels, max(1, PRODUCTS // groups))
        x_parts = x.reshape(groups * parts, -1, channels)
        of_parts = torch.bmm(x_parts.transpose(1, 2), gradient.reshape(groups * parts, -1, gradient.shape[2]))
        of_weight = of_parts.view(groups, parts, channels, -1).sum(1)
        return torch.bmm(gradient, weight.transpose(1, 2)), of_weight


class _Normalise(torch.autograd.Function):
    """Batch norm of (G, P, C) over the P pixels: its output, and the mean and variance (G, 1, C) of each channel.

    With a gradient of its own, which passes over the activations twice; that of the formula does so more often, and
    keeps float32 copies of them. Sums over pixels are sums over parts of them first, enough of them to fill a GPU.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
        variances, means = torch.var_mean(_parts(x).float(), 2, correction=0)
        between, mean = torch.var_mean(means, 1, correction=0, keepdim=True)
        variance = variances.mean(1, keepdim=True) + between
        deviation = (variance + eps).rsqrt()
        ctx.save_for_backward(x, weight, mean, deviation)
        ctx.mark_non_differentiable(mean, variance)
        return ((x.float() - mean) * (deviation * weight) + bias).to(x.dtype), mean, variance

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor, Tensor, Tensor, None]:
        x, weight, mean, deviation = ctx.saved_tensors
        gradient = gradients[0].float()
        standard = (x.float() - mean) * deviation
        sums = torch.stack([_parts(gradient).sum(2), _parts(gradient * standard).sum(2)])
        of_bias, of_weight = sums.sum(2, keepdim=True)
        of_x = (gradient - (of_bias + standard * of_weight) / x.shape[1]) * (deviation * weight)
        return of_x.to(x.dtype), of_weight, of_bias, None


def _parts(x: Tensor) -> Tensor:
    """Activations (G, P, C) as (G, S, P/S, C)."""
    groups, pixels, channels = x.shape
    return x.reshape(groups, gcd(pixels, max(PARTS, pixels // PART)), -1, channels)
