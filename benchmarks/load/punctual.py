"""Punctual: a sender that shares the processor with what it measures, and still sends what is due when it is due.

    with punctual(): ...       # on the thread that sends

On a machine of its own a client would not wait for the server's threads. So it runs before all others here, as long as
it has something to do, where the system allows that (root, or the right to real-time scheduling); a run's lag tells how
punctual it was. What it takes of the processor the server still lacks.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["punctual"]


@contextmanager
def punctual() -> Iterator[bool]:
    """Real-time scheduling for the calling thread, and not for those that it starts. Yields whether it is allowed."""
    if not hasattr(os, "SCHED_RESET_ON_FORK"):  # not on Linux
        yield False
        return
    flag = os.SCHED_RESET_ON_FORK
    try:
        before, parameters = os.sched_getscheduler(0), os.sched_getparam(0)
        first = os.sched_param(os.sched_get_priority_min(os.SCHED_FIFO))
        os.sched_setscheduler(0, os.SCHED_FIFO | flag, first)
    except OSError:  # forbidden, or a system that only looks like Linux
        yield False
        return
    try:
        yield True
    finally:
        try:
            os.sched_setscheduler(0, before, parameters)
        except PermissionError:  # only root may take the flag off again, which does no harm
            os.sched_setscheduler(0, before | flag, parameters)
