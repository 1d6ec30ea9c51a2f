"""Niceness: threads that compute on the CPU stand back for those that read, decode and answer.

Where processors are few both want them at the same time, and a system that treats them alike lets either wait for a few
milliseconds at a time. A step that ends later mostly costs a refinement, a reply that goes out later the answer. The
price is that they stand back for other programs of the same user session or container, too.
"""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TypeVar

__all__ = ["made_nice", "stand_back"]

T = TypeVar("T")

NICENESS = 5
"""On Unix's scale, whose most is 19: a third of the processor time of who is not nice, where both want all of it. With
10 the engine starves under loads at which one network each is all that it can do."""


def stand_back() -> None:
    """Make the calling thread nice, for good, and the threads that it starts. Only Linux does it to a single thread."""
    if sys.platform == "linux":
        thread = threading.get_native_id()
        with suppress(OSError):  # where it is forbidden, everything works as well, and a little later
            os.setpriority(os.PRIO_PROCESS, thread, os.getpriority(os.PRIO_PROCESS, thread) + NICENESS)


def made_nice(make: Callable[[], T]) -> T:
    """What `make` returns, made on a thread that is nice: so are all threads that it starts there."""
    with ThreadPoolExecutor(1, initializer=stand_back) as aside:
        return aside.submit(make).result()
