"""One request is taken up in each turn of the event loop, in the order of arrival."""

import asyncio

import pytest

from service.turns import Turns

pytestmark = pytest.mark.anyio


async def test_one_is_let_through_in_each_turn() -> None:
    turns, passed, order = Turns(), 0, []

    async def request(number: int) -> None:
        nonlocal passed
        await turns.next()
        passed += 1
        order.append(number)

    requests = [asyncio.create_task(request(number)) for number in range(5)]
    most = 0
    while len(order) < len(requests):
        passed = 0
        await asyncio.sleep(0)
        most = max(most, passed)
    assert most == 1
    assert order == sorted(order)
    assert len(order) == 5


async def test_one_that_is_given_up_holds_nobody_up() -> None:
    turns = Turns()
    first, given_up, other = (asyncio.create_task(turns.next()) for _ in range(3))
    await asyncio.sleep(0)
    assert first.done()
    given_up.cancel()
    await asyncio.wait_for(other, 5)
    assert given_up.cancelled()
    for _ in range(3):
        await asyncio.wait_for(turns.next(), 5)
