"""Random crops and flips of whole batches on the device (small images; larger ones go through `images.FileImages`)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["crop_and_flip"]


def crop_and_flip(images: Tensor, generator: torch.Generator, *, padding: int = 4) -> Tensor:
    """Each image or its mirror image, cropped at random to its own size after zero padding (the paper's section 4).

    Args:
        images: (B, C, H, W) of any dtype, not yet normalised: zero is black.
        generator: on the images' device; three draws per image.

    Returns:
        (B, C, H, W), in channels-last memory format.
    """
    batch, _, height, width = images.shape
    device = images.device

    def draw(high: int) -> Tensor:
        return torch.randint(high, (batch, 1), generator=generator, device=device)

    top, left, mirrored = draw(2 * padding + 1), draw(2 * padding + 1), draw(2)
    rows = top + torch.arange(height, device=device)
    columns = torch.arange(width, device=device).expand(batch, -1)
    columns = left + torch.where(mirrored.bool(), columns.flip(1), columns)
    padded = F.pad(images, (padding,) * 4)
    # Indices on both sides of a slice put the indexed dimensions first: (B, H, W, C).
    cropped = padded[torch.arange(batch, device=device)[:, None, None], :, rows[:, :, None], columns[:, None, :]]
    return cropped.permute(0, 3, 1, 2)
