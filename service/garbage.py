"""Garbage: a full collection must not walk what lives as long as the process.

Modules, schemas and the model's description are hundreds of thousands of objects: to look through all of them takes
40 ms, in which no deadline is kept.
"""

from __future__ import annotations

import gc

__all__ = ["keep_for_good"]


def keep_for_good() -> None:
    """Collect once, and leave what is there now out of every later collection."""
    gc.collect()
    gc.freeze()
