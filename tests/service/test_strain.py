"""Refinements stop where the front loses more answers than they gain."""

from typing import Any

import pytest

from service.lag import LoopLag
from service.strain import SECONDS, Strain
from tests.service.engines import FakeClock
from tests.service.situations import figures

JPEG = {"content-type": "image/jpeg"}


def ended(strain: Strain, *, well: int = 0, let_down: int = 0) -> None:
    for count, how in ((well, False), (let_down, True)):
        for _ in range(count):
            strain.ended(let_down=how)


def test_it_is_too_high_where_more_is_lost_than_gained() -> None:
    strain = Strain(figures([0.8, 0.83, 0.84]), FakeClock())  # five in a hundred
    assert not strain.too_high
    ended(strain, well=96, let_down=4)
    assert not strain.too_high
    ended(strain, let_down=2)
    assert strain.too_high


def test_it_is_forgotten_within_a_second() -> None:
    clock = FakeClock()
    strain = Strain(figures([0.8, 0.84]), clock)
    ended(strain, let_down=5)
    clock.now += 0.9 * SECONDS
    assert strain.too_high
    clock.now += 0.2 * SECONDS
    assert not strain.too_high
    ended(strain, well=30, let_down=1)
    assert not strain.too_high, "what is forgotten does not count again"


def test_nothing_is_lost_for_a_model_that_gains_nothing() -> None:
    strain = Strain(figures([0.8, 0.79]), FakeClock())
    ended(strain, well=3)
    assert not strain.too_high
    ended(strain, let_down=1)
    assert strain.too_high


@pytest.mark.anyio
async def test_the_urgent_get_a_first_leaf_only(serving: Any, photo: bytes) -> None:
    async with serving() as served:

        async def size(options: str) -> tuple[int, str]:
            answer = (await served.client.post(f"/predict?{options}", content=photo, headers=JPEG)).json()
            return answer["ensemble_size"], answer["stop_reason"]

        ended(served.app.state.service.strain, let_down=1000)
        assert await size(f"deadline_ms={900 * SECONDS}") == (1, "policy")
        full = await size(f"deadline_ms={20_000 * SECONDS}")
        assert full == (16, "complete"), "who has longer than it is remembered waits until it is over"
        ended(served.app.state.service.strain, let_down=1000)
        assert (await size(f"deadline_ms={900 * SECONDS}&min_confidence=1"))[0] > 1, "who asks for everything"


@pytest.mark.anyio
@pytest.mark.parametrize(("lag", "counts"), [(0.0, False), (0.3, True)])
async def test_what_is_missed_counts_where_the_loop_lags(
    serving: Any, photo: bytes, monkeypatch: pytest.MonkeyPatch, lag: float, counts: bool
) -> None:
    async with serving() as served:
        monkeypatch.setattr(LoopLag, "seconds", lag)
        assert (await served.client.post("/predict?deadline_ms=1", content=photo, headers=JPEG)).status_code == 504
        assert served.app.state.service.strain.too_high is counts
