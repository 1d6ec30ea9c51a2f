"""From a picture of any kind and size to the pixels that the network sees, with Pillow alone: one way for training,
its evaluation and serving, so that all see the same.

    fit(upright_rgb(Image.open(path)), ...)
"""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageOps

__all__ = ["fit", "resized", "upright_rgb"]

BACKGROUND = (255, 255, 255)
"""What shows through transparent pixels."""


def upright_rgb(image: Image.Image) -> Image.Image:
    """RGB of any mode, turned as EXIF says, transparency over `BACKGROUND`, 16 bits a channel scaled to 8.

    An image that is RGB already is turned in place and returned itself.
    """
    ImageOps.exif_transpose(image, in_place=True)
    if image.mode.startswith("I"):
        image = Image.fromarray((np.asarray(image).astype(np.uint32) >> 8).astype(np.uint8))
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, BACKGROUND), rgba)
    return image if image.mode == "RGB" else image.convert("RGB")


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
