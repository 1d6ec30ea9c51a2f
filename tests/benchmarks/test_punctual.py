"""A sender that runs before all others, where it may."""

import os
import threading
from typing import Any

import pytest

from benchmarks.client import machine
from benchmarks.load.punctual import can_be_punctual, punctual

pytestmark = pytest.mark.skipif(not hasattr(os, "sched_setscheduler"), reason="only Linux schedules threads so")


def test_it_ends_with_the_block_and_is_not_for_threads_that_begin_in_it() -> None:
    before, inside = os.sched_getscheduler(0), []
    with punctual() as allowed:
        thread = threading.Thread(target=lambda: inside.append(os.sched_getscheduler(0)))
        thread.start()
        thread.join()
        inside.append(os.sched_getscheduler(0) & ~os.SCHED_RESET_ON_FORK)
    assert inside == [before, os.SCHED_FIFO if allowed else before]
    assert os.sched_getscheduler(0) == before


def test_without_the_right_to_it_everything_stays_as_it_is(monkeypatch: pytest.MonkeyPatch) -> None:
    def forbidden(*arguments: Any) -> None:
        raise PermissionError

    before = os.sched_getscheduler(0)
    monkeypatch.setattr(os, "sched_setscheduler", forbidden)
    with punctual() as allowed:
        assert not allowed
        assert os.sched_getscheduler(0) == before


def test_a_report_says_whether_it_was() -> None:
    assert machine()["real-time sender"] is can_be_punctual()
