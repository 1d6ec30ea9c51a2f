"""Who waits for a thread, in which order, and what becomes of those who leave."""

from __future__ import annotations

import asyncio
import gc
import threading
import weakref
from collections.abc import Callable, Iterator
from math import inf

import pytest

from service.errors import QueueFullError
from service.lane import Lane
from service.request import Priority

pytestmark = pytest.mark.anyio

HIGH, NORMAL, LOW = Priority


class Held:
    """A lane of one thread, which stands still until it is let go."""

    def __init__(self, max_waiting: int) -> None:
        self.lane = Lane(threads=1, max_waiting=max_waiting, name="held")
        self.done: list[str] = []
        self._gate, self._entered = threading.Event(), threading.Event()
        self._first: asyncio.Task[None] | None = None

    def ask(self, name: str, priority: Priority = NORMAL, deadline: float = inf) -> asyncio.Task[None]:
        return asyncio.create_task(
            self.lane.run(lambda: self.done.append(name), priority=priority, deadline=deadline), name=name
        )

    async def hold(self) -> None:
        def wait() -> None:
            self._entered.set()
            assert self._gate.wait(30)

        self._first = asyncio.create_task(self.lane.run(wait, priority=HIGH, deadline=0))
        await asyncio.to_thread(self._entered.wait, 30)

    def let_go(self) -> None:
        self._gate.set()


@pytest.fixture
def make() -> Iterator[Callable[[int], Held]]:
    made: list[Held] = []

    def held(max_waiting: int) -> Held:
        made.append(Held(max_waiting))
        return made[-1]

    yield held
    for each in made:
        each.let_go()
        each.lane.close()


async def test_the_highest_priority_comes_first_and_in_it_the_earliest_deadline(make: Callable[[int], Held]) -> None:
    held = make(8)
    await held.hold()
    order = [("d", LOW, 1.0), ("c", NORMAL, inf), ("b", NORMAL, 9.0), ("a", HIGH, inf), ("e", LOW, 2.0)]
    tasks = [held.ask(*one) for one in order]
    await asyncio.sleep(0)
    assert held.lane.waiting == 5
    held.let_go()
    await asyncio.gather(*tasks)
    assert held.done == ["a", "b", "c", "d", "e"]
    assert held.lane.waiting == 0


async def test_in_a_full_line_a_higher_priority_takes_the_place_of_the_last(make: Callable[[int], Held]) -> None:
    held = make(2)
    await held.hold()
    early, late = held.ask("early", LOW, 1.0), held.ask("late", LOW, 2.0)
    await asyncio.sleep(0)
    with pytest.raises(QueueFullError):
        await held.ask("no better", LOW, 0.5)
    high = held.ask("high", HIGH)
    with pytest.raises(QueueFullError):
        await late
    held.let_go()
    await asyncio.gather(early, high)
    assert held.done == ["high", "early"]


async def test_who_gives_up_leaves_the_line_and_his_place_to_others(make: Callable[[int], Held]) -> None:
    held = make(1)
    await held.hold()
    gone = held.ask("gone")
    await asyncio.sleep(0)
    gone.cancel()
    with pytest.raises(asyncio.CancelledError):
        await gone
    assert held.lane.waiting == 0
    there = held.ask("there")
    held.let_go()
    await there
    assert held.done == ["there"]


async def test_what_the_work_raises_is_raised_and_the_thread_goes_on(make: Callable[[int], Held]) -> None:
    held = make(1)

    def broken() -> None:
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        await held.lane.run(broken, priority=NORMAL, deadline=inf)
    await held.ask("next")
    assert held.done == ["next"]


async def test_who_waits_when_it_is_closed_is_not_left_waiting(make: Callable[[int], Held]) -> None:
    held = make(1)
    await held.hold()
    waits = held.ask("waits")
    await asyncio.sleep(0)
    held.lane.close()
    with pytest.raises(asyncio.CancelledError):
        await waits
    assert held.lane.waiting == 0


async def test_work_that_failed_is_gone_with_its_error(make: Callable[[int], Held]) -> None:
    class Data:
        def fail(self) -> None:
            raise ValueError("broken")

    lane, data = make(1).lane, Data()
    gone = weakref.ref(data)
    with pytest.raises(ValueError, match="broken"):
        await lane.run(data.fail, priority=NORMAL, deadline=inf)
    gc.disable()  # so that nothing but its references keeps it
    try:
        del data
        await lane.run(lambda: None, priority=NORMAL, deadline=inf)  # the thread is through with the one before
        assert gone() is None
    finally:
        gc.enable()
