"""One request is taken up in each turn of the event loop: the most urgent of those who can make it, while all can."""

import asyncio
from collections.abc import Callable, Sequence

import pytest

from service.request import Priority
from service.turns import WINDOW, Turns
from tests.service.engines import FakeClock

pytestmark = pytest.mark.anyio


async def order(
    turns: Turns, requests: Sequence[tuple[float, Priority]], *, tick: Callable[[], None] = lambda: None
) -> list[int]:
    """Let requests with these deadlines and priorities come while one has its turn; the order in which they get theirs,
    never two in the same turn. `tick` is called after each."""
    passed: list[int] = []

    async def request(number: int) -> None:
        await turns.next(*requests[number])
        passed.append(number)
        tick()

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


async def turns_a_second_apart(clock: FakeClock) -> Turns:
    turns = Turns(clock)
    await order(turns, normal(*[1e6] * 128), tick=lambda: clock.pass_by(1.0))
    return turns


@pytest.mark.parametrize(
    ("deadlines", "expected"),
    [
        ([5.0, 5.1, 5.2, 5.3], [0, 1, 2, 3]),
        ([2.1, 2.2, 2.3, 2.4], [3, 2, 1, 0]),
        ([2.1, 2.2, 2.3, 2.4, 1000.0], [3, 4, 2, 1, 0]),
        ([1000.0, 3.5, 3.6, 3.7], [1, 2, 3, 0]),
        ([0.5, 3.5, 3.6, 3.7, 3.8], [4, 3, 2, 1, 0]),
    ],
    ids=["time for all", "too many", "too many and a patient one", "a patient one", "one that was too late before"],
)
async def test_those_with_most_time_come_first_where_not_all_can_make_it(
    deadlines: list[float], expected: list[int]
) -> None:
    clock = FakeClock()
    turns = await turns_a_second_apart(clock)
    requests = normal(*(clock.now + deadline for deadline in deadlines))
    assert await order(turns, requests, tick=lambda: clock.pass_by(1.0)) == expected


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
