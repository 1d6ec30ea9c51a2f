"""Every augmented image is a real crop of the padded image or of its mirror image, and all of them occur."""

from __future__ import annotations

import torch
from torch.nn import functional as F

from training.augment import crop_and_flip


def test_each_result_is_a_crop_of_the_padded_image_or_its_mirror_image() -> None:
    images = torch.arange(1, 1 + 200 * 3 * 6 * 5).view(200, 3, 6, 5)
    cropped = crop_and_flip(images, torch.Generator().manual_seed(0), padding=1)
    assert cropped.shape == images.shape
    seen = set()
    for image, result in zip(images, cropped, strict=True):
        for mirrored in (False, True):
            padded = F.pad(image.flip(-1) if mirrored else image, (1, 1, 1, 1))
            for top in range(3):
                for left in range(3):
                    if padded[:, top : top + 6, left : left + 5].equal(result):
                        seen.add((mirrored, top, left))
                        break
    assert len(seen) == 18


def test_the_same_generator_state_gives_the_same_images() -> None:
    images = torch.randint(0, 256, (8, 3, 8, 8), dtype=torch.uint8)
    first, again, other = (crop_and_flip(images, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2))
    assert first.equal(again)
    assert not first.equal(other)
    assert first.dtype == torch.uint8
    assert first.is_contiguous(memory_format=torch.channels_last)
