"""From a picture of any kind and size to the pixels that the network sees, with Pillow alone: one way for training,
its evaluation and serving, so that all see the same.

    fit(upright(Image.open(path)), ...)         in little memory, whatever the size
    fit(upright_rgb(Image.open(path)), ...)     the same pixels, by way of the whole image in RGB
"""

from __future__ import annotations

import numpy as np
from PIL import ExifTags, Image

__all__ = ["fit", "resized", "upright", "upright_rgb"]

BACKGROUND = (255, 255, 255)
"""What shows through transparent pixels."""

TURNED = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What the values of EXIF's Orientation ask for. Pillow's `exif_transpose` writes the description anew as well, which
fails on what cameras put there against the standard."""

STRIP_PIXELS = 2**20
"""A bigger image becomes RGB so many pixels at a time: on the way there each takes up to 16 bytes."""


def upright(image: Image.Image) -> Image.Image:
    """The image turned as EXIF or XMP says; itself, where they are absent or broken or say that it is upright."""
    image.load()
    try:
        method = TURNED.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except Exception:  # parsers of damaged files raise nearly everything; the pixels are fine
        return image
    return image if method is None else image.transpose(method)


def _flat(image: Image.Image) -> Image.Image:
    """RGB of any mode, transparency over `BACKGROUND`, 16 bits a channel scaled to 8. RGB is returned untouched."""
    if image.mode.startswith("I"):
        image = Image.fromarray((np.asarray(image).astype(np.uint32) >> 8).astype(np.uint8))
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", rgba.size, BACKGROUND), rgba)
    return image if image.mode == "RGB" else image.convert("RGB")


def upright_rgb(image: Image.Image) -> Image.Image:
    """The whole image, upright and in RGB; itself, where it is both already."""
    return _flat(upright(image))


def resized(size: tuple[int, int], cover: tuple[int, int]) -> tuple[int, int]:
    """(width, height) of an image that is resized until it just covers `cover` (height, width), in proportion.

    With a square, that is its shorter side resized to so many pixels; rounded as torchvision's Resize rounds.
    """
    (width, height), (high, wide) = size, cover
    if width * high <= height * wide:
        return wide, int(wide * height / width)
    return int(high * width / height), high


def fit(image: Image.Image, *, cover: tuple[int, int], height: int, width: int) -> Image.Image:
    """Resized until it just covers `cover` (height, width; bilinear, antialiased), then the centre cut out as by
    torchvision's CenterCrop, in RGB.

    An image that is RGB of that size already is returned untouched; height and width are at most those of `cover`.
    """
    size = resized(image.size, cover)
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
