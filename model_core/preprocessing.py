"""From a picture of any size to the pixels that the network sees, with Pillow alone: one function for training's
evaluation and for serving, so that both see the same.
"""

from __future__ import annotations

from PIL import Image

__all__ = ["fit", "resized"]


def resized(size: tuple[int, int], shorter_side: int) -> tuple[int, int]:
    """(width, height) after the shorter side is resized to `shorter_side` pixels, rounded as torchvision's Resize."""
    width, height = size
    if width <= height:
        return shorter_side, int(shorter_side * height / width)
    return int(shorter_side * width / height), shorter_side


def fit(image: Image.Image, *, shorter_side: int, height: int, width: int) -> Image.Image:
    """The shorter side resized (bilinear, antialiased), then the centre cut out, as torchvision's CenterCrop.

    An image that has the size already is returned untouched; height and width are at most `shorter_side`.
    """
    if min(image.size) != shorter_side:
        image = image.resize(resized(image.size, shorter_side), Image.Resampling.BILINEAR)
    if image.size == (width, height):
        return image
    left, top = round((image.width - width) / 2), round((image.height - height) / 2)
    return image.crop((left, top, left + width, top + height))
