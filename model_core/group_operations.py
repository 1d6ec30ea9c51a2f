"""What `group_major` computes with: products, depthwise sums and batch norm, each with a gradient written for a GPU.

Their own gradients, since those of the formulas pass over the activations more often, keep float32 copies of them, or
leave the sum over all pixels to as few multiprocessors as there are groups.

Shape legend: G groups, B batch, H W image size, P pixels of all images (B H W), C D channels of one group, R S kernel.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["batch_normalised", "depthwise", "precise", "product"]

PRODUCTS = 128
"""Matrix products at once, about: as many as a GPU has multiprocessors."""
PARTS, PART = 64, 512
"""A sum over all pixels is one of sums over so many parts of them, or as many as have so many pixels each; fewer where
the number of pixels has no such divisor."""


def product(x: Tensor, weight: Tensor) -> Tensor:
    """Matrices (G, P, C) times (G, C, D), of one dtype."""
    result: Tensor = _Product.apply(x, weight)
    return result


def depthwise(x: Tensor, weight: Tensor, stride: tuple[int, int]) -> Tensor:
    """Maps (G, B, H, W, C), zero beyond their edges, under odd kernels (G, 1, 1, 1, C, R, S): (G, B, H', W', C)."""
    result: Tensor = _Depthwise.apply(x, weight, stride)
    return result


def batch_normalised(x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
    """Batch norm of (G, P, C) over the pixels, with `weight` and `bias` (G, 1, C).

    Returns the result, and the mean and the biased variance (G, 1, C) of each channel, without a gradient.
    """
    result: tuple[Tensor, Tensor, Tensor] = _BatchNorm.apply(x, weight, bias, eps)
    return result


def precise(x: Tensor) -> Tensor:
    """In float32, or float64 if it is that."""
    return x if x.dtype is torch.float64 else x.float()


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return torch.bmm(x, weight)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor, Tensor]:
        x, weight = ctx.saved_tensors
        gradient = gradients[0]
        groups, pixels, channels = x.shape
        parts = _divisor(pixels, PRODUCTS // groups)
        x_parts = x.reshape(groups * parts, -1, channels)
        of_parts = torch.bmm(x_parts.transpose(1, 2), gradient.reshape(groups * parts, -1, gradient.shape[2]))
        of_weight = of_parts.view(groups, parts, channels, -1).sum(1)
        return torch.bmm(gradient, weight.transpose(1, 2)), of_weight


class _Depthwise(torch.autograd.Function):
    """The sum of shifted products, which a compiler fuses into one pass over the maps."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, stride: tuple[int, int]) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.stride = stride
        return _sum_of_shifts(x, weight, stride)

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor, Tensor, None]:
        x, weight = ctx.saved_tensors
        (gradient,), (vertical, horizontal) = gradients, ctx.stride
        spread = gradient
        if ctx.stride != (1, 1):
            spread = torch.zeros_like(x)
            spread[:, :, ::vertical, ::horizontal] = gradient
        sums = []
        for seen, _ in _shifts(x, weight, ctx.stride):
            terms = precise(seen) * precise(gradient)
            sums.append(_parts(terms.reshape(len(x), -1, x.shape[-1])).sum(2))
        of_weight = torch.stack(sums, -1).sum(1).view(weight.shape).to(weight.dtype)
        return _sum_of_shifts(spread, weight.flip(-1, -2), (1, 1)), of_weight, None


class _BatchNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor]:
        variances, means = torch.var_mean(precise(_parts(x)), 2, correction=0)
        between, mean = torch.var_mean(means, 1, correction=0, keepdim=True)
        variance = variances.mean(1, keepdim=True) + between
        deviation = (variance + eps).rsqrt()
        ctx.save_for_backward(x, weight, mean, deviation)
        ctx.mark_non_differentiable(mean, variance)
        return ((precise(x) - mean) * (deviation * weight) + bias).to(x.dtype), mean, variance

    @staticmethod
    def backward(ctx: Any, *gradients: Any) -> tuple[Tensor, Tensor, Tensor, None]:
        x, weight, mean, deviation = ctx.saved_tensors
        gradient = precise(gradients[0])
        standard = (precise(x) - mean) * deviation
        sums = torch.stack([_parts(gradient).sum(2), _parts(gradient * standard).sum(2)])
        of_bias, of_weight = sums.sum(2, keepdim=True)
        of_x = (gradient - (of_bias + standard * of_weight) / x.shape[1]) * (deviation * weight)
        return of_x.to(x.dtype), of_weight, of_bias, None


def _sum_of_shifts(x: Tensor, weight: Tensor, stride: tuple[int, int]) -> Tensor:
    first, *others = (seen * element for seen, element in _shifts(x, weight, stride))
    return sum(others, first)


def _shifts(x: Tensor, weight: Tensor, stride: tuple[int, int]) -> Iterator[tuple[Tensor, Tensor]]:
    """What each element of a kernel sees of the maps, and the element."""
    (rows, columns), (vertical, horizontal) = weight.shape[-2:], stride
    _, _, height, width, _ = x.shape
    padded = F.pad(x, (0, 0, columns // 2, columns // 2, rows // 2, rows // 2))
    for row in range(rows):
        for column in range(columns):
            seen = padded[:, :, row : row + height : vertical, column : column + width : horizontal]
            yield seen, weight[..., row, column]


def _parts(x: Tensor) -> Tensor:
    """(G, P, C) as (G, parts, P/parts, C)."""
    groups, pixels, channels = x.shape
    return x.reshape(groups, _divisor(pixels, max(PARTS, pixels // PART)), -1, channels)


def _divisor(number: int, most: int) -> int:
    """The largest divisor of a number up to `most`, one at least."""
    return next(divisor for divisor in range(max(1, most), 0, -1) if number % divisor == 0)
