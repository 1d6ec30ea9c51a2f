"""Allocator settings for training on a CPU."""

from __future__ import annotations

import ctypes
import platform

__all__ = ["keep_freed_memory"]

# From glibc's malloc.h.
_M_TRIM_THRESHOLD, _M_MMAP_MAX = -1, -4


def keep_freed_memory() -> bool:
    """Make glibc reuse freed memory instead of returning it to the kernel, for this process.

    By default every temporary tensor above a few megabytes is mapped from the kernel and unmapped again, so each
    training step pays page faults for all of its activations. Measured on two cores with hne_small: 113 images/s
    instead of 60. The price is that the process keeps its peak memory.

    Returns:
        Whether the settings were accepted; elsewhere than on Linux with glibc nothing is done.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    mallopt = ctypes.CDLL(None).mallopt
    return bool(mallopt(_M_MMAP_MAX, 0) and mallopt(_M_TRIM_THRESHOLD, 2**31 - 1))
