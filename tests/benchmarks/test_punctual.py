"""A sender that runs before all others, where it may."""

import os
import threading
from typing import Any

import pytest

from benchmarks.load.punctual import punctual

pytestmark = pytest.mark.skipif(not hasattr(os, "SCHED_RESET_ON_FORK"), reason="only Linux schedules threads so")


def policy() -> int:
    return os.sched_getscheduler(0) & ~os.SCHED_RESET_ON_FORK


def test_it_ends_with_the_block_and_is_not_for_threads_that_begin_in_it() -> None:
    before, inside = policy(), []
    with punctual() as allowed:
        thread = threading.Thread(target=lambda: inside.append(policy()))
        thread.start()
        thread.join()
        inside.append(policy())
    assert inside == [before, os.SCHED_FIFO if allowed else before]
    assert policy() == before


@pytest.mark.parametrize("error", [PermissionError, OSError])
def test_where_it_cannot_be_everything_stays_as_it_is(monkeypatch: pytest.MonkeyPatch, error: type[OSError]) -> None:
    def impossible(*arguments: Any) -> None:
        raise error

    before = policy()
    monkeypatch.setattr(os, "sched_setscheduler", impossible)
    with punctual() as allowed:
        assert not allowed
        assert policy() == before


def test_who_may_begin_it_but_not_take_the_flag_off_goes_back_with_the_flag(monkeypatch: pytest.MonkeyPatch) -> None:
    chosen: list[int] = []

    def as_not_root(thread: int, policy: int, parameters: Any) -> None:
        if not policy & os.SCHED_RESET_ON_FORK:
            raise PermissionError
        chosen.append(policy)

    before = os.sched_getscheduler(0)
    monkeypatch.setattr(os, "sched_setscheduler", as_not_root)
    with punctual() as allowed:
        assert allowed
    assert chosen == [policy | os.SCHED_RESET_ON_FORK for policy in (os.SCHED_FIFO, before)]
