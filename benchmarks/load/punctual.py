"""Punctual: a sender that shares the processor with what it measures, and still sends what is due when it is due.

    with punctual(): ...       # on the thread that sends

On a machine of its own a client would not wait for the server's threads. So it runs before all others here, as long as
it has something to do, where the system allows that (root, or CAP_SYS_NICE); a report says whether it did.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["can_be_punctual", "punctual"]


@contextmanager
def punctual() -> Iterator[bool]:
    """Real-time scheduling for the calling thread, and not for those that it starts. Yields whether it is allowed."""
    if not hasattr(os, "sched_setscheduler"):  # not on Linux
        yield False
        return
    policy, parameters = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        os.sched_setscheduler(
            0, os.SCHED_FIFO | os.SCHED_RESET_ON_FORK, os.sched_param(os.sched_get_priority_min(os.SCHED_FIFO))
        )
    except PermissionError:
        yield False
        return
    try:
        yield True
    finally:
        os.sched_setscheduler(0, policy, parameters)


def can_be_punctual() -> bool:
    """Whether the system allows it."""
    with punctual() as allowed:
        return allowed
