"""Mixed images: every image of a batch with its neighbour's, and labels in the same proportion.

All networks see the same mixed batch, as they share their first layers. The proportion is drawn evenly from 0..1 once a
batch: both papers chose Beta(1, 1) for CIFAR. Draws happen on the host, so that nothing waits for the device.

Shape legend: B batch, C channels, H W image size, K classes.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from training.config import Mixing

__all__ = ["mixed"]


def mixed(
    images: Tensor, labels_b: Tensor, *, how: Mixing, share: float, classes: int, draws: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Images (B, C, H, W) and targets of a batch, mixed with probability `share`.

    `mixup` adds the images up (Zhang et al. 2018), `cutmix` pastes a rectangle (Yun et al. 2019).

    Args:
        draws: on the CPU; four draws.

    Returns:
        Images and probabilities (B, K), those of the labels where the batch is not mixed; with `off` what was given.
    """
    chance, own, row, column = torch.rand(4, generator=draws).tolist()
    if how == "off":
        return images, labels_b
    targets_bk = F.one_hot(labels_b, classes).float()  # in every batch, so that one form of the loss is compiled
    if chance >= share:
        return images, targets_bk
    neighbours = images.roll(1, 0)
    if how == "mixup":
        images = own * images + (1 - own) * neighbours
    else:
        height, width = images.shape[2:]
        side = (1 - own) ** 0.5
        top, bottom = _interval(row, side, height)
        left, right = _interval(column, side, width)
        images = images.clone()
        images[:, :, top:bottom, left:right] = neighbours[:, :, top:bottom, left:right]
        own = 1 - (bottom - top) * (right - left) / (height * width)
    return images, own * targets_bk + (1 - own) * targets_bk.roll(1, 0)


def _interval(centre: float, length: float, pixels: int) -> tuple[int, int]:
    """Where a side of the rectangle begins and ends, cut off at the image's border."""
    begin, end = (round((centre + offset * length) * pixels) for offset in (-0.5, 0.5))
    return max(0, begin), min(pixels, end)
