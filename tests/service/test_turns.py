"""One request is taken up in each turn of the event loop: of those who can still make it, the most urgent."""

import asyncio
from collections.abc import Sequence

import pytest

from service.request import Priority
from service.turns import WINDOW, Turns
from tests.service.engines import FakeClock

pytestmark = pytest.mark.anyio


async def order(turns: Turns, requests: Sequence[tuple[float, Priority]]) -> list[int]:
    """Let requests with these deadlines and priorities come while one has its turn; the order in which they get theirs,
    never two in the same turn."""
    passed: list[int] = []

    async def request(number: int) -> None:
        await turns.next(*requests[number])
        passed.append(number)

    first = asyncio.create_task(turns.next(float("inf"), Priority.NORMAL))
    tasks = [asyncio.create_task(request(number)) for number in range(len(requests))]
    while len(passed) < len(requests):
        before = len(passed)
        await asyncio.sleep(0)
        assert len(passed) <= before + 1
    await asyncio.gather(first, *tasks)
    return passed


def normal(*deadlines: float) -> list[tuple[float, Priority]]:
    return [(deadline, Priority.NORMAL) for deadline in deadlines]


async def test_the_most_urgent_comes_first() -> None:
    assert await order(Turns(FakeClock()), normal(103.0, 101.0, 102.0, 101.0)) == [1, 3, 2, 0]


async def test_the_highest_priority_comes_first() -> None:
    requests = [(101.0, Priority.LOW), (102.0, Priority.NORMAL), (103.0, Priority.HIGH)]
    assert await order(Turns(FakeClock()), requests) == [2, 1, 0]


async def test_who_can_hardly_make_it_holds_up_nobody_who_can() -> None:
    turns = Turns(FakeClock())
    for _ in range(WINDOW):
        turns.observe(2.0)
    assert await order(turns, normal(101.0, 101.5, 103.0, 102.5)) == [3, 2, 1, 0]


async def test_one_that_is_given_up_holds_nobody_up() -> None:
    turns = Turns(FakeClock())
    first, *given_up, other = (
        asyncio.create_task(turns.next(deadline, Priority.NORMAL)) for deadline in (200.0, 101.0, 103.0, 102.0)
    )
    await asyncio.sleep(0)
    assert first.done()
    for task in given_up:
        task.cancel()
    await asyncio.wait_for(other, 5)
    for _ in range(3):
        await asyncio.wait_for(turns.next(101.0, Priority.NORMAL), 5)
