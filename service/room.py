"""Room: how many bytes of uploads are held at a time, from their first byte until their images are decoded.

The limit on one body bounds one client; this one bounds them together. A small upload is always taken: it is no more
than what the socket's own buffer holds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from service.errors import UploadsFullError

__all__ = ["Room"]

FREE = 65_536
"""Bytes of each upload that do not count."""
RETRY_AFTER = 1.0
"""Seconds until others may have been read or given up."""


class Room:
    """`limit` is in bytes. Belongs to one event loop."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.taken = 0
        """Bytes held now."""

    @contextmanager
    def share(self) -> Iterator[Callable[[int], None]]:
        """What one upload takes within the block: a function to call with the bytes that have come.

        It raises UploadsFullError where there is no room for them.
        """
        received = held = 0

        def take(count: int) -> None:
            nonlocal received, held
            received += count
            more = max(0, received - FREE) - held
            if more > self.limit - self.taken:
                raise UploadsFullError(RETRY_AFTER)
            held += more
            self.taken += more

        try:
            yield take
        finally:
            self.taken -= held
