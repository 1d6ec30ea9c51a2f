"""What is kept back of a deadline: as much as answers are seen to take on their way out."""

from typing import Any

import pytest

from service.reserve import SHARE, WINDOW, Reserve

LOAD = 100.0


def test_it_is_the_floor_and_what_answers_take() -> None:
    reserve = Reserve(0.002)
    assert reserve.of(1.0) == 0.002
    for _ in range(WINDOW):
        reserve.observe(0.001, load=LOAD)
    assert reserve.of(1.0) == pytest.approx(0.002 + 0.001)
    for _ in range(10):
        reserve.observe(0.03, load=LOAD)
    assert reserve.of(1.0) == pytest.approx(0.002 + 0.03)
    for _ in range(WINDOW):
        reserve.observe(0.001, load=LOAD)
    assert reserve.of(1.0) == pytest.approx(0.002 + 0.001)


def test_one_straggler_in_many_costs_refinements_but_no_first_leaf() -> None:
    reserve = Reserve(0.0)
    for _ in range(WINDOW):
        reserve.observe(0.001, load=LOAD)
    reserve.observe(1.0, load=LOAD)
    assert reserve.of(1.0) == 0.001
    assert reserve.whole == 1.0, "a refinement is worth less than the smallest risk of being late"
    for _ in range(WINDOW):
        reserve.observe(0.001, load=LOAD)
    assert reserve.whole == 0.001


def test_it_never_takes_more_than_a_part_of_the_deadline_beyond_the_floor() -> None:
    reserve = Reserve(0.002)
    for _ in range(WINDOW):
        reserve.observe(1.0, load=LOAD)
    assert reserve.of(0.1) == pytest.approx(0.002 + 0.1 * SHARE)
    assert reserve.whole == pytest.approx(2 * 0.002 + 1.0)


def test_what_was_slow_under_a_load_that_is_over_is_forgotten() -> None:
    reserve = Reserve(0.0)
    for _ in range(WINDOW):
        reserve.observe(1.0, load=10 * LOAD)
    reserve.observe(0.001, load=6 * LOAD)
    assert reserve.whole == 1.0, "it may be chance that a little fewer come"
    reserve.observe(0.001, load=LOAD)
    assert reserve.whole == 0.001
    reserve.observe(0.002, load=10 * LOAD)
    assert reserve.whole == 0.002


@pytest.mark.anyio
async def test_the_service_learns_it_from_its_answers(serving: Any, photo: bytes) -> None:
    async with serving(reply_ms=0) as served:
        reserve = served.app.state.service.reserve
        headers = {"content-type": "image/jpeg"}
        for _ in range(3):
            complete = await served.client.post("/predict", content=photo, headers=headers)
            assert complete.json()["stop_reason"] == "complete"
        assert reserve.of(1.0) == 0.0, "a few slow answers do not stand for all"
        await served.client.post("/predict", content=photo, headers=headers)
        assert 0.0 < reserve.of(100.0) <= reserve.whole < 10.0
        with served.brake.before(1):
            cut = await served.client.post("/predict?deadline_ms=500", content=photo, headers=headers)
            assert cut.json()["stop_reason"] == "deadline"
        assert 0.0 < reserve.whole < 10.0, "not the half second that the answer waited for its deadline"


@pytest.mark.anyio
async def test_slow_replies_cost_refinements_but_no_first_leaf(serving: Any, photo: bytes) -> None:
    async with serving(reply_ms=0) as served:
        for _ in range(WINDOW):
            served.app.state.service.reserve.observe(60.0, load=LOAD)
        answer = await served.client.post(
            "/predict?deadline_ms=20000", content=photo, headers={"content-type": "image/jpeg"}
        )
    assert (answer.status_code, answer.json()["ensemble_size"]) == (200, 1)
    assert answer.json()["stop_reason"] == "deadline"
    assert answer.json()["elapsed_ms"] < 15_000, "what was not to be refined was not held back"
