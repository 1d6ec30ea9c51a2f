"""Refinements stop where the front loses more answers than they gain."""

from typing import Any

import pytest

from service.lag import LoopLag
from service.strain import GROWTH, LESS, RECENT, TRIAL, TRIAL_SECONDS, URGENT_SECONDS, Strain
from tests.service.engines import FakeClock
from tests.service.situations import figures

JPEG = {"content-type": "image/jpeg"}


def ended(strain: Strain, clock: FakeClock, *, count: int, rate: float, lost_of: int = 0) -> None:
    """`count` requests come and end at a rate, two at a time; the first and then every `lost_of`-th is let down."""
    for number in range(count):
        clock.now += 1 / rate
        strain.ended(
            arrived_at=clock.now - 1.5 / rate,
            seen_at=clock.now - 1.5 / rate,
            let_down=bool(lost_of) and number % lost_of == 0,
        )


def strained(strain: Strain, clock: FakeClock, rate: float) -> None:
    """It has learned that this rate is too high."""
    ended(strain, clock, count=2 * TRIAL + 1, rate=rate, lost_of=10)
    assert strain.too_high


@pytest.mark.parametrize(("lost_of", "too_high"), [(25, False), (15, True)])
def test_it_is_too_high_where_more_is_lost_than_gained(lost_of: int, too_high: bool) -> None:
    clock = FakeClock()
    strain = Strain(figures([0.8, 0.83, 0.84]), clock)  # five in a hundred
    assert not strain.too_high
    ended(strain, clock, count=2 * TRIAL + 1, rate=200, lost_of=lost_of)
    assert strain.too_high is too_high


def test_a_lower_load_is_bearable_at_once() -> None:
    clock = FakeClock()
    strain = Strain(figures([0.8, 0.84]), clock)
    strained(strain, clock, 200)
    ended(strain, clock, count=RECENT, rate=0.7 * 200)
    assert not strain.too_high
    ended(strain, clock, count=RECENT, rate=200)
    assert strain.too_high, "what was learned is kept"
    clock.now += 1
    assert not strain.too_high, "nobody came for a second"


def test_more_is_tried_with_time() -> None:
    clock = FakeClock()
    strain = Strain(figures([0.8, 0.84]), clock)
    strained(strain, clock, 200)
    seconds = (1 / LESS - 1) / GROWTH
    ended(strain, clock, count=round(0.7 * seconds * 200), rate=200)
    assert strain.too_high
    ended(strain, clock, count=round(0.6 * seconds * 200), rate=200)
    assert not strain.too_high
    clock.now += 30 * 24 * 3600
    ended(strain, clock, count=RECENT, rate=2000)
    assert not strain.too_high, "after a month it knows nothing"


def test_what_is_lost_where_nobody_is_refined_does_not_count() -> None:
    clock = FakeClock()
    strain = Strain(figures([0.8, 0.84]), clock)
    strained(strain, clock, 200)
    ended(strain, clock, count=4000, rate=2000, lost_of=2)
    ended(strain, clock, count=2 * TRIAL, rate=0.75 * 200)
    assert not strain.too_high, "it has learned nothing more of 200 per second"


def test_nor_does_who_came_while_nobody_was() -> None:
    clock = FakeClock()
    strain = Strain(figures([0.8, 0.84]), clock)
    strained(strain, clock, 200)
    came_at = clock.now
    ended(strain, clock, count=RECENT, rate=100)
    assert not strain.too_high
    for _ in range(2 * TRIAL):  # all that the burst has left behind ends late
        clock.now += 1 / 100
        strain.ended(arrived_at=came_at, seen_at=came_at, let_down=True)
    ended(strain, clock, count=RECENT, rate=110)
    assert not strain.too_high


def test_a_burst_is_learned_at_its_own_load() -> None:
    clock = FakeClock()
    strain = Strain(figures([0.8, 0.84]), clock)
    ended(strain, clock, count=200, rate=50)
    ended(strain, clock, count=2 * TRIAL + 1, rate=1000, lost_of=3)
    assert strain.too_high
    ended(strain, clock, count=RECENT, rate=500)
    assert not strain.too_high, "the load before the burst and far above it is bearable"


def test_what_is_lost_at_hardly_any_load_is_not_the_loads_fault() -> None:
    clock = FakeClock()
    strain = Strain(figures([0.8, 0.84]), clock)
    ended(strain, clock, count=1000, rate=0.9 * TRIAL / TRIAL_SECONDS, lost_of=3)
    assert not strain.too_high
    strained(Strain(figures([0.8, 0.84]), clock), clock, 1.1 * TRIAL / TRIAL_SECONDS)


def test_a_single_pause_is_chance() -> None:
    clock = FakeClock()
    strain = Strain(figures([0.8, 0.79]), clock)  # refining gains nothing
    for _ in range(4):
        ended(strain, clock, count=TRIAL + 1, rate=50, lost_of=TRIAL)
    assert not strain.too_high
    strained(strain, clock, 50)


def test_one_pause_that_loses_several_is_chance() -> None:
    clock = FakeClock()
    strain = Strain(figures([0.8, 0.79]), clock)  # refining gains nothing
    for _ in range(4):
        ended(strain, clock, count=20, rate=200, lost_of=1)
        ended(strain, clock, count=2 * TRIAL, rate=200)
    assert not strain.too_high
    strained(strain, clock, 200)


def test_a_client_that_is_alone_is_no_load() -> None:
    clock = FakeClock()
    strain = Strain(figures([0.8, 0.84]), clock)
    strained(strain, clock, 200)

    def alone(count: int, let_down: bool = False) -> None:
        for _ in range(count):
            seen_at = clock.now
            clock.now += 1 / 400
            strain.ended(arrived_at=seen_at - 0.01, seen_at=seen_at, let_down=let_down)

    alone(RECENT // 2)
    assert strain.too_high, "it may be chance that no two come at once"
    alone(RECENT)
    assert not strain.too_high
    ended(strain, clock, count=2, rate=400)
    assert strain.too_high, "there is another one"

    strain = Strain(figures([0.8, 0.84]), clock)
    alone(RECENT)
    alone(4 * TRIAL, let_down=True)
    ended(strain, clock, count=RECENT, rate=1000)
    assert not strain.too_high, "nothing was learned from one that is alone"


@pytest.mark.anyio
async def test_the_urgent_get_a_first_leaf_only(serving: Any, photo: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Strain, "too_high", True)
    async with serving() as served:

        async def size(options: str) -> tuple[int, str]:
            answer = (await served.client.post(f"/predict?{options}", content=photo, headers=JPEG)).json()
            return answer["ensemble_size"], answer["stop_reason"]

        assert await size(f"deadline_ms={900 * URGENT_SECONDS}") == (1, "policy")
        assert await size(f"deadline_ms={20_000 * URGENT_SECONDS}") == (16, "complete"), "who has so long is not urgent"
        assert (await size(f"deadline_ms={900 * URGENT_SECONDS}&min_confidence=1"))[0] > 1, "who asks for everything"


@pytest.mark.anyio
@pytest.mark.parametrize("lag", [0.0, 0.3])
async def test_what_is_missed_counts_where_the_loop_lags(
    serving: Any, photo: bytes, monkeypatch: pytest.MonkeyPatch, lag: float
) -> None:
    heard: list[bool] = []
    monkeypatch.setattr(Strain, "ended", lambda _, *, arrived_at, seen_at, let_down: heard.append(let_down))
    async with serving() as served:
        monkeypatch.setattr(LoopLag, "seconds", lag)
        assert (await served.client.post("/predict?deadline_ms=0.1", content=photo, headers=JPEG)).status_code == 504
        assert heard == [lag > 0]


@pytest.mark.anyio
@pytest.mark.parametrize(("usual", "expected"), [(0.01, True), (0.08, False)])
async def test_what_had_twice_the_usual_time_and_is_missed_counts_too(
    serving: Any, photo: bytes, monkeypatch: pytest.MonkeyPatch, usual: float, expected: bool
) -> None:
    heard: list[bool] = []
    monkeypatch.setattr(Strain, "ended", lambda _, *, arrived_at, seen_at, let_down: heard.append(let_down))
    async with serving() as served:
        monkeypatch.setattr(LoopLag, "seconds", 0.0)
        served.app.state.service.firsts.value = usual
        with served.brake.before(0):
            response = await served.client.post("/predict?deadline_ms=100", content=photo, headers=JPEG)
        assert response.status_code == 504
        assert heard == [expected]
