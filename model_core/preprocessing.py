"""From a picture of any kind and size to the pixels that the network sees, with Pillow alone: one way for training,
its evaluation and serving, so that all see the same.

    fit(upright(Image.open(path)), ...)         in little memory, whatever the size
    fit(upright_rgb(Image.open(path)), ...)     the same pixels, by way of the whole image in RGB
"""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageOps

__all__ = ["fit", "resized", "upright", "upright_rgb"]

BACKGROUND = (255, 255, 255)
"""What shows through transparent pixels."""

STRIP_PIXELS = 2**20
"""A bigger image becomes RGB so many pixels at a time: on the way there each takes up to 16 bytes."""


def upright(image: Image.Image) -> Image.Image:
    """The image turned in place as EXIF says."""
    ImageOps.exif_transpose(image, in_place=True)
    return image


def _flat(image: Image.Image) -> Image.Image:
    """RGB of any mode, transparency over `BACKGROUND`, 16 bits a channel scaled to 8. RGB is returned untouched."""
    if image.mode.startswith("I"):
        image = Image.fromarray((np.asarray(image).astype(np.uint32) >> 8).astype(np.uint8))
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, BACKGROUND), rgba)
    return image if image.mode == "RGB" else image.convert("RGB")


def upright_rgb(image: Image.Image) -> Image.Image:
    """Both: an image that is RGB already is turned in place and returned itself."""
    return _flat(upright(image))


def resized(size: tuple[int, int], shorter_side: int) -> tuple[int, int]:
    """(width, height) after the shorter side is resized to `shorter_side` pixels, rounded as torchvision's Resize."""
    width, height = size
    if width <= height:
        return shorter_side, int(shorter_side * height / width)
    return int(shorter_side * width / height), shorter_side


def fit(image: Image.Image, *, shorter_side: int, height: int, width: int) -> Image.Image:
    """The shorter side resized (bilinear, antialiased), then the centre cut out, as torchvision's CenterCrop, in RGB.

    An image that is RGB of that size already is returned untouched; height and width are at most `shorter_side`.
    """
    size = resized(image.size, shorter_side)
    if image.size != size:
        image = _resize(image, size)
    if image.size != (width, height):
        left, top = round((image.width - width) / 2), round((image.height - height) / 2)
        image = image.crop((left, top, left + width, top + height))
    return _flat(image)


def _resize(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    # Pillow resizes in one direction after the other, so rows can be narrowed before the next ones are looked at. From
    # Pillow 13 on it begins a tall image with the columns; the other order changes a few pixels by a level.
    rows = max(1, STRIP_PIXELS // image.width)
    if rows >= image.height:
        return _flat(image).resize(size, Image.Resampling.BILINEAR)
    narrow = Image.new("RGB", (size[0], image.height))
    for top in range(0, image.height, rows):
        strip = _flat(image.crop((0, top, image.width, min(top + rows, image.height))))
        narrow.paste(strip.resize((size[0], strip.height), Image.Resampling.BILINEAR), (0, top))
    return narrow.resize(size, Image.Resampling.BILINEAR)
