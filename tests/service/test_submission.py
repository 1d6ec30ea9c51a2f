"""What of a request reaches the engine, and what of its answer the client and the figures."""

from __future__ import annotations

import asyncio
import re
import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from model_core.package import Package
from service.arrival import FLOW
from service.delivery import Delivery, Mailbox
from service.images import Decoder
from service.lag import LoopLag
from service.request import Budget, Priority
from service.strain import Strain
from tests.service.bodies import JPEG, encoded

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    ("path", "every_size"),
    [
        ("/predict", False),
        ("/predict?every_size=true", True),
        ("/predict/stream", True),
        ("/predict/stream?every_size=false", False),
    ],
)
async def test_a_stream_shows_every_size_unless_it_says_otherwise(
    serving: Any, photo: bytes, monkeypatch: pytest.MonkeyPatch, path: str, every_size: bool
) -> None:
    submit, budgets = Delivery.submit, []

    def noted(delivery: Delivery, image: NDArray[np.float32], budget: Budget, **how: Any) -> Mailbox:
        budgets.append(budget)
        return submit(delivery, image, budget, **how)

    monkeypatch.setattr(Delivery, "submit", noted)
    async with serving() as served:
        assert (await served.client.post(path, content=photo, headers=JPEG)).status_code == 200
    assert [budget.every_size for budget in budgets] == [every_size]


async def waiting(served: Any, count: int) -> None:
    """Until so many wait for their first leaf, beside the one that runs."""
    async with asyncio.timeout(10):
        while served.metric("hne_queue_depth") != count or served.metric("hne_slots") != 1:
            await asyncio.sleep(0)


async def test_in_a_full_queue_the_priority_decides(serving: Any, photo: bytes) -> None:
    async with serving(max_active=1, max_waiting=1, max_images=1) as served:

        def ask(priority: str) -> asyncio.Task[Any]:
            options = {"priority": priority, "max_ensemble_size": 1}
            return asyncio.create_task(served.client.post("/predict", params=options, content=photo, headers=JPEG))

        with served.brake.before(0):
            runs = ask("normal")
            await waiting(served, 0)
            low = ask("low")
            await waiting(served, 1)
            high = ask("high")
            assert (await low).json()["type"] == "urn:hne:problem:queue-full"
        assert [(await task).status_code for task in (runs, high)] == [200, 200]


async def test_a_list_that_is_refused_leaves_none_of_its_images_behind(serving: Any, photo: bytes) -> None:
    one = {"params": {"max_ensemble_size": 1}, "content": photo, "headers": JPEG}
    async with serving(max_active=1, max_waiting=2, max_images=2) as served:
        with served.brake.before(0):
            runs = asyncio.create_task(served.client.post("/predict", **one))
            await waiting(served, 0)
            waits = asyncio.create_task(served.client.post("/predict", **one))
            await waiting(served, 1)
            refused = await served.client.post("/predict", json={"images": [encoded(photo)] * 2})
            assert refused.status_code == 503
            await waiting(served, 1)
        assert [(await task).status_code for task in (runs, waits)] == [200, 200]


async def test_an_answer_tells_what_its_own_size_is_worth_and_where_the_time_went(
    serving: Any, photo: bytes, package: Package
) -> None:
    async with serving() as served:
        answer = await served.client.post("/predict?max_ensemble_size=2", content=photo, headers=JPEG)
    assert answer.json()["expected_accuracy"] == package.manifest.table[1].accuracy
    spent = {name: float(value) for name, value in re.findall(r"(\w+);dur=([^,]+)", answer.headers["server-timing"])}
    assert set(spent) == {"read", "queue", "compute", "total"}
    assert min(spent.values()) > 0
    assert spent["read"] + spent["queue"] + spent["compute"] <= spent["total"]


async def test_who_had_a_turn_and_misses_its_deadline_was_not_refused(
    serving: Any, photo: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def endless(decoder: Decoder, data: bytes, name: str, **how: Any) -> NDArray[np.float32]:
        await asyncio.sleep(3600)
        raise AssertionError

    monkeypatch.setattr(Decoder, "decode", endless)
    async with serving() as served:
        assert (await served.client.post("/predict?deadline_ms=50", content=photo, headers=JPEG)).status_code == 504
        assert served.metric("hne_deadline_missed_total") == 1
        assert served.metric("hne_rejections_total", reason="deadline") == 0


async def test_a_late_answer_is_booked_as_late_and_as_a_loss(
    serving: Any, photo: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    losses: list[bool] = []
    turns: list[float] = []
    monkeypatch.setattr(Strain, "ended", lambda _, *, arrived_at, seen_at, let_down: losses.append(let_down))
    async with serving() as served:
        monkeypatch.setattr(LoopLag, "seconds", 1e-9)
        service = served.app.state.service
        clock = service.clock
        monkeypatch.setattr(service.turns, "observe", turns.append)
        answer = Mailbox.answer

        async def slow(mailbox: Mailbox) -> Any:
            refinement = await answer(mailbox)
            until = clock() + 0.4  # the reply is held up, as by a pause of the machine
            while clock() < until:
                pass
            return refinement

        monkeypatch.setattr(Mailbox, "answer", slow)
        response = await served.client.post("/predict?deadline_ms=300", content=photo, headers=JPEG)
        assert response.status_code == 200
        assert served.metric("hne_deadline_overrun_seconds_sum") > 0
        assert losses == [True]
        (turn,) = turns
        assert 0 < turn < 0.3


@pytest.mark.parametrize("paused", [True, False], ids=["the client does not read", "this machine pauses"])
async def test_a_client_that_does_not_read_its_answer_is_not_booked_as_a_slow_reply(
    serving: Any, photo: bytes, monkeypatch: pytest.MonkeyPatch, paused: bool
) -> None:
    headers = [(b"content-type", b"image/jpeg")]
    connection = SimpleNamespace(write_paused=paused)
    scope = {"type": "http", "method": "POST", "path": "/predict", "headers": headers, "state": {FLOW: connection}}
    body = [{"type": "http.request", "body": photo, "more_body": False}]
    lags: list[float] = []
    async with serving() as served:
        service = served.app.state.service
        monkeypatch.setattr(service.reserve, "ended", lags.append)

        async def receive() -> dict[str, Any]:
            return body.pop() if body else await asyncio.get_running_loop().create_future()

        async def send(message: dict[str, Any]) -> None:
            until = service.clock() + 0.4  # no room in its socket
            while service.clock() < until:
                pass

        await served.app(scope | {"query_string": b"deadline_ms=300"}, receive, send)
        assert served.metric("hne_requests_total", endpoint="/predict", outcome="answered") == 1
        assert served.metric("hne_request_duration_seconds_sum") > 0.4
        assert served.metric("hne_deadline_overrun_seconds_bucket", le="0.0") == paused
    (lag,) = lags
    assert (lag < 0.4) == paused


async def test_of_a_list_that_is_refused_nothing_waits_to_be_decoded_any_more(serving: Any, photo: bytes) -> None:
    async with serving(max_images=8, max_waiting=8, decode_threads=1) as served:
        decoder: Decoder = served.app.state.service.decoder
        held, entered = threading.Event(), threading.Event()

        def hold() -> None:
            entered.set()
            assert held.wait(30)

        def wait_for(work: Callable[[], None]) -> asyncio.Task[None]:
            return asyncio.create_task(decoder._lane.run(work, priority=Priority.HIGH, deadline=0))

        others = [wait_for(hold)]
        await asyncio.to_thread(entered.wait, 30)
        others += [wait_for(lambda: None) for _ in range(4)]
        refused = await served.client.post("/predict", json={"images": [encoded(photo)] * 8})
        assert refused.status_code == 503
        assert decoder.waiting == 4
        held.set()
        await asyncio.gather(*others)
