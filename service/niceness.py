"""Niceness: the engine's threads stand back for those that read, decode and answer, where processors are few.

Both want the processor at the same time, and a system that treats them alike lets either wait for a few milliseconds at
a time. A step that ends later costs a refinement, if anything; a reply that goes out later costs the answer.
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
    """Make the calling thread nice, for good, and the threads that it starts. Only Linux can do it to a thread."""
    if sys.platform == "linux":
        thread = threading.get_native_id()
        with suppress(OSError):  # where it is forbidden, everything works as well, and a little later
            os.setpriority(os.PRIO_PROCESS, thread, os.getpriority(os.PRIO_PROCESS, thread) + NICENESS)


def made_nice(make: Callable[[], T]) -> T:
    """What `make` returns, made on a thread that is nice: so are all threads that it starts there."""
    with ThreadPoolExecutor(1, initializer=stand_back) as aside:
        return aside.submit(make).result()
