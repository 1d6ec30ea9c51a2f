"""Uncollected: no collection of garbage holds back what is due meanwhile.

The service leaves what lives as long as it does out of every collection (`service.garbage`), while a benchmark's
records would be walked again and again, for as long as a deadline is.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["uncollected"]


@contextmanager
def uncollected() -> Iterator[None]:
    """Collect once before, and not again until the end."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
