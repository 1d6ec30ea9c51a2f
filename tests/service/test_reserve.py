"""What is kept back of a deadline: as much as answers are seen to take on their way out."""

from typing import Any

import pytest

from service.reserve import FLOOR_SHARE, REFINING, SHARE, WINDOW, Reserve
from tests.service.engines import FakeClock

CALM, BURST = 100.0, 1000.0
"""Requests per second."""


class Answers:
    """A reserve, and answers that come at a rate and are out after some seconds."""

    def __init__(self, floor: float) -> None:
        self.clock = FakeClock()
        self.reserve = Reserve(floor, self.clock)

    def come(self, lag: float | None, *, count: int = 1, rate: float = CALM) -> None:
        for _ in range(count):
            self.clock.now += 1 / rate
            self.reserve.ended(lag)


def test_it_is_the_floor_and_what_answers_take() -> None:
    answers = Answers(0.002)
    reserve = answers.reserve
    assert reserve.of(1.0) == 0.002
    answers.come(0.001, count=WINDOW)
    assert reserve.of(1.0) == pytest.approx(0.002 + 0.001)
    answers.come(0.03, count=10)
    assert reserve.of(1.0) == pytest.approx(0.002 + 0.03)
    answers.come(0.001, count=WINDOW)
    assert reserve.of(1.0) == pytest.approx(0.002 + 0.001)


def test_one_straggler_in_many_costs_refinements_but_no_first_leaf() -> None:
    answers = Answers(0.0)
    reserve = answers.reserve
    answers.come(0.001, count=WINDOW)
    answers.come(1.0)
    assert reserve.of(1.0) == 0.001
    assert reserve.refining() == 1.0, "a refinement is worth less than the smallest risk of being late"
    answers.come(0.001, count=WINDOW)
    assert reserve.refining() == 0.001


def test_a_straggler_of_more_than_a_minute_ago_is_forgotten_however_few_have_come_since() -> None:
    answers = Answers(0.0)
    answers.come(0.001, count=WINDOW, rate=0.1)
    answers.come(1.0, rate=0.1)
    answers.come(0.001, count=5, rate=0.1)
    assert answers.reserve.refining() == 1.0
    answers.clock.now += 11.0
    assert answers.reserve.refining() == 0.001
    answers.come(1.0, rate=0.1)
    assert answers.reserve.refining() == 1.0


def test_where_all_replies_are_slow_it_stays_known_however_few_there_are() -> None:
    answers = Answers(0.0)
    answers.come(0.04, count=10, rate=1 / 90)
    assert (answers.reserve.of(1.0), answers.reserve.refining()) == (0.04, 0.04)


def test_it_never_takes_more_than_a_part_of_the_deadline_beyond_the_floor() -> None:
    answers = Answers(0.002)
    answers.come(1.0, count=WINDOW)
    assert answers.reserve.of(0.1) == pytest.approx(0.002 + 0.1 * SHARE)
    assert answers.reserve.refining() == pytest.approx(REFINING * 0.002 + 1.0)


def test_a_deadline_as_short_as_the_floor_still_has_time_for_a_first_leaf() -> None:
    answers = Answers(0.002)
    assert answers.reserve.of(0.002) == pytest.approx(0.002 * FLOOR_SHARE)
    answers.come(1.0, count=WINDOW)
    assert answers.reserve.of(0.002) == pytest.approx(0.002 * (FLOOR_SHARE + SHARE))


def test_a_short_deadline_leaves_time_for_refinements_too() -> None:
    answers = Answers(0.002)
    assert answers.reserve.refining(0.004) == pytest.approx(REFINING * FLOOR_SHARE * 0.004)
    assert answers.reserve.refining(1.0) == answers.reserve.refining() == pytest.approx(REFINING * 0.002)


@pytest.mark.parametrize("slow", [WINDOW // 4, 4 * WINDOW], ids=["short", "long"])
def test_what_was_slow_in_a_burst_is_forgotten_within_a_second(slow: int) -> None:
    answers = Answers(0.0)
    answers.come(0.001, count=WINDOW)
    answers.come(None, count=4 * WINDOW, rate=BURST)  # nobody is answered while the burst begins
    answers.come(1.0, count=slow, rate=BURST)
    answers.come(0.002, count=20)
    assert answers.reserve.refining() == 1.0, "it may be chance that few come"
    answers.come(0.002, count=int(CALM) - 20)
    assert answers.reserve.refining() == 0.002
    answers.come(0.001, count=WINDOW)
    assert answers.reserve.refining() == 0.001


def test_a_pause_of_the_loop_is_no_calm() -> None:
    answers = Answers(0.0)
    answers.come(1.0, count=2 * WINDOW, rate=BURST)
    answers.clock.now += 0.1
    answers.come(0.001)
    assert answers.reserve.refining() == 1.0


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
        assert 0.0 < reserve.of(100.0) <= reserve.refining() < 10.0
        with served.brake.before(1):
            cut = await served.client.post("/predict?deadline_ms=500", content=photo, headers=headers)
            assert cut.json()["stop_reason"] == "deadline"
        assert 0.0 < reserve.refining() < 10.0, "not the half second that the answer waited for its deadline"


@pytest.mark.anyio
async def test_slow_replies_cost_refinements_but_no_first_leaf(serving: Any, photo: bytes) -> None:
    async with serving(reply_ms=0) as served:
        for _ in range(WINDOW):
            served.app.state.service.reserve.ended(60.0)
        answer = await served.client.post(
            "/predict?deadline_ms=20000", content=photo, headers={"content-type": "image/jpeg"}
        )
    assert (answer.status_code, answer.json()["ensemble_size"]) == (200, 1)
    assert answer.json()["stop_reason"] == "deadline"
    assert answer.json()["elapsed_ms"] < 15_000, "what was not to be refined was not held back"
