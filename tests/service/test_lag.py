"""How long what has become ready waits for a busy event loop."""

import asyncio
import time
from typing import Any

import pytest

from service.lag import BEATS, INTERVAL, PAUSE_BEATS, LoopLag

pytestmark = pytest.mark.anyio


async def held_up(seconds: float) -> None:
    """Keep the loop busy, and give its timers their turn."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        pass
    await asyncio.sleep(0)
    await asyncio.sleep(0)


async def test_it_is_what_a_turn_took_and_is_forgotten() -> None:
    lag = LoopLag()
    lag.start()
    try:
        assert lag.seconds == 0.0
        await held_up(0.2)
        assert 0.15 < lag.seconds < 10
        for _ in range(200):
            await asyncio.sleep(BEATS * INTERVAL)
            if lag.seconds < 0.15:
                return
        pytest.fail("it is never forgotten")
    finally:
        lag.stop()


async def test_one_pause_is_forgotten_sooner_than_what_lasts() -> None:
    lag = LoopLag()
    lag.start()
    try:
        for _ in range(20):  # the machine may pause, too
            await held_up(0.2)
            assert lag.seconds > 0.15
            await asyncio.sleep((PAUSE_BEATS + 2) * INTERVAL)
            if lag.seconds < 0.15:
                break
            await asyncio.sleep(2 * BEATS * INTERVAL)
        else:
            pytest.fail("it is held against those who come later")
    finally:
        lag.stop()


async def test_who_waited_longer_than_its_deadline_is_refused_unread(
    serving: Any, photo: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    headers = {"content-type": "image/jpeg"}
    async with serving() as served:
        monkeypatch.setattr(LoopLag, "seconds", 0.3)
        late = await served.client.post("/predict?deadline_ms=200", content=photo, headers=headers)
        assert late.status_code == 504
        assert served.metric("hne_deadline_missed_total") == 1
        assert served.metric("hne_step_batch_size_count") == 0
        patient = await served.client.post("/predict?deadline_ms=20000", content=photo, headers=headers)
        assert patient.json()["elapsed_ms"] > 100, "it counts from when it came, not from its turn"
