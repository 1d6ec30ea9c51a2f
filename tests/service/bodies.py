"""Bodies of requests."""

from __future__ import annotations

import base64
import io

from PIL import Image

__all__ = ["JPEG", "encode", "encoded"]

JPEG = {"content-type": "image/jpeg"}


def encoded(photo: bytes) -> str:
    """As in a JSON body."""
    return base64.b64encode(photo).decode()


def encode(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    """A picture as a file."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()
