"""Bodies of requests."""

from __future__ import annotations

import base64

__all__ = ["JPEG", "encoded"]

JPEG = {"content-type": "image/jpeg"}


def encoded(photo: bytes) -> str:
    """As in a JSON body."""
    return base64.b64encode(photo).decode()
