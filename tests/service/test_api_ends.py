"""What ends a request early, through the real app: deadlines, full queues, clients that leave, a drain."""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import AsyncIterator
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image

from service.delivery import Delivery, Mailbox
from service.request import Budget
from tests.service.bodies import JPEG, encode, encoded

pytestmark = pytest.mark.anyio


async def leaf_of_one(served: Any) -> None:
    """Wait for the first leaf of the first request."""
    async with asyncio.timeout(10):
        while served.metric("hne_first_prediction_seconds_count") != 1:
            await asyncio.sleep(0)


async def test_at_the_deadline_the_latest_refinement_is_the_answer(serving: Any, photo: bytes) -> None:
    async with serving() as served:
        with served.brake.before(2):
            response = await served.client.post("/predict?deadline_ms=300", content=photo, headers=JPEG)
            assert (await served.client.get("/readyz")).status_code == 200
        answer = response.json()
        assert (response.status_code, answer["ensemble_size"], answer["stop_reason"]) == (200, 2, "deadline")
        assert 290 < answer["elapsed_ms"] < 1000
        await asyncio.sleep(0)  # it is counted once it is out
        assert served.metric("hne_stops_total", reason="deadline") == 1
        assert served.metric("hne_deadline_overrun_seconds_count") == 1


@pytest.mark.parametrize("how", ["query", "header", "json", "default", "cap"])
async def test_without_a_leaf_by_the_deadline_it_is_504(serving: Any, photo: bytes, how: str) -> None:
    settings = {"default": {"default_deadline_ms": 150}, "cap": {"max_deadline_ms": 150}}.get(how, {})
    request: dict[str, Any] = {"content": photo, "headers": dict(JPEG)}
    if how == "query":
        request["params"] = {"deadline_ms": 150}
    if how == "header":
        request["headers"] |= {"x-request-timeout-ms": "150"}
        request["params"] = {"deadline_ms": 60_000}
    if how == "json":
        request = {"json": {"image": encoded(photo), "deadline_ms": 150}}
    async with serving(**settings) as served:
        with served.brake.before(0):
            response = await served.client.post("/predict", **request)
    assert response.status_code == 504
    assert response.json()["type"] == "urn:hne:problem:deadline-missed"


async def test_a_body_may_name_a_longer_deadline_than_the_usual_one(serving: Any, photo: bytes) -> None:
    body = json.dumps({"image": encoded(photo), "deadline_ms": 20_000, "max_ensemble_size": 1}).encode()

    async def slowly() -> AsyncIterator[bytes]:
        yield body[:100]
        await asyncio.sleep(0.3)
        yield body[100:]

    async with serving(default_deadline_ms=150) as served:
        headers = {"content-type": "application/json"}
        assert (await served.client.post("/predict", content=slowly(), headers=headers)).status_code == 200
        late = await served.client.post("/predict", content=slowly(), headers=headers | {"x-request-timeout-ms": "150"})
        assert late.status_code == 504
        assert served.metric("hne_rejections_total", reason="deadline") == 1


async def test_who_had_no_network_in_time_is_told_when_others_had_one(serving: Any, photo: bytes) -> None:
    async with serving() as served:
        hopeless = {"params": {"deadline_ms": 0.001}, "content": photo, "headers": JPEG}
        first = (await served.client.post("/predict", **hopeless)).json()["detail"]
        answer = await served.client.post("/predict", content=photo, headers=JPEG)
        then = (await served.client.post("/predict", **hopeless)).json()["detail"]
    assert first == "no network could be computed by the deadline", "nobody knows yet"
    told = re.fullmatch(
        re.escape(first) + r"; nine in ten of those answered lately had their first within ([\d.]+) ms", then
    )
    assert told is not None
    assert 0.0 < float(told[1]) <= answer.json()["elapsed_ms"]


async def test_a_list_has_a_problem_only_where_no_leaf_was_in_time(serving: Any, photo: bytes) -> None:
    images = [encoded(photo)] * 3
    async with serving(max_active=1) as served:
        with served.brake.before(0):
            late = await served.client.post("/predict", json={"images": images, "deadline_ms": 150})
        assert (late.status_code, late.json()["status"]) == (504, 504)
        with served.brake.before(1):  # the first image keeps the only slot
            mixed = await served.client.post("/predict", json={"images": images, "deadline_ms": 300})
        assert mixed.status_code == 200
        first, *others = mixed.json()
        assert (first["ensemble_size"], first["stop_reason"]) == (1, "deadline")
        assert [other["type"] for other in others] == ["urn:hne:problem:deadline-missed"] * 2
        answers = (await served.client.post("/predict", json={"images": images})).json()
    assert [answer["ensemble_size"] for answer in answers] == [16, 16, 16]


async def test_an_image_that_fails_does_not_take_the_others_answers_along(serving: Any, photo: bytes) -> None:
    async with serving(max_active=1, drain_seconds=0.01) as served:
        with served.brake.before(1):
            asked = asyncio.create_task(served.client.post("/predict", json={"images": [encoded(photo)] * 2}))
            await leaf_of_one(served)
            await served.app.state.service.drain()
            answers = await asked
    assert answers.status_code == 200
    assert [answer.get("stop_reason", answer.get("type")) for answer in answers.json()] == [
        "drain",
        "urn:hne:problem:draining",
    ]


async def test_the_deadline_counts_from_the_head_so_a_slow_upload_is_504(
    client: httpx.AsyncClient, photo: bytes
) -> None:
    async def never_ending() -> AsyncIterator[bytes]:
        yield photo[:100]
        await asyncio.Event().wait()

    response = await client.post("/predict?deadline_ms=100", content=never_ending(), headers=JPEG)
    assert response.status_code == 504


def upload_to(path: str, kind: bytes) -> dict[str, Any]:
    """The scope of a request whose body is of a kind."""
    return {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": "POST",
        "path": path,
        "query_string": b"",
        "headers": [(b"content-type", kind)],
    }


@pytest.mark.parametrize(
    ("kind", "begins"),
    [(b"image/jpeg", b"\xff\xd8"), (b"application/json", b"{"), (b"multipart/form-data; boundary=x", b"--x\r\n")],
)
async def test_a_client_that_leaves_during_its_upload_is_no_fault(serving: Any, kind: bytes, begins: bytes) -> None:
    messages: list[dict[str, Any]] = [
        {"type": "http.disconnect"},
        {"type": "http.request", "body": begins, "more_body": True},
    ]

    async def receive() -> dict[str, Any]:
        return messages.pop()

    async def send(_: Any) -> None:
        pass

    async with serving() as served:
        await served.app(upload_to("/predict", kind), receive, send)
        assert served.metric("hne_requests_total", endpoint="/predict", outcome="disconnected") == 1


@pytest.mark.parametrize("path", ["/predict", "/predict/stream"])
async def test_a_client_that_leaves_frees_its_place(serving: Any, photo: bytes, path: str) -> None:
    first_leaf = asyncio.Event()
    body = [{"type": "http.request", "body": photo, "more_body": False}]

    async def receive() -> dict[str, Any]:
        if body:
            return body.pop()
        await first_leaf.wait()
        return {"type": "http.disconnect"}

    async def send(_: Any) -> None:
        pass

    async with serving() as served:
        with served.brake.before(1):
            request = asyncio.create_task(served.app(upload_to(path, b"image/jpeg"), receive, send))
            await leaf_of_one(served)
            assert served.metric("hne_inflight_requests") == 1
            first_leaf.set()
            await request
            assert served.metric("hne_inflight_requests") == 0
        assert served.metric("hne_requests_total", endpoint=path, outcome="disconnected") == 1


async def test_a_full_queue_says_when_to_come_back(serving: Any, photo: bytes) -> None:
    async with serving(max_active=1, max_waiting=1, max_images=1) as served:
        with served.brake.before(0):
            # One runs and one waits at most, so of three at least one finds the queue full.
            tasks = [asyncio.create_task(served.client.post("/predict", content=photo, headers=JPEG)) for _ in range(3)]
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            refused = done.pop().result()
            assert (refused.status_code, refused.json()["type"]) == (503, "urn:hne:problem:queue-full")
            assert int(refused.headers["retry-after"]) >= 1
        statuses = sorted(response.status_code for response in await asyncio.gather(*tasks))
        assert served.metric("hne_rejections_total", reason="queue_full") == statuses.count(503)
        assert served.metric("hne_requests_total", endpoint="/predict", outcome="rejected") == statuses.count(503)
    assert statuses[-1] == 503
    assert statuses[0] == 200


async def test_a_request_that_finds_the_decoders_full_is_one_refusal(
    serving: Any, photo: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    big = encode(Image.new("RGB", (3000, 3000)))
    submit, submitted = Delivery.submit, []

    def noted(delivery: Delivery, image: NDArray[np.float32], budget: Budget, **how: Any) -> Mailbox:
        submitted.append(budget)
        return submit(delivery, image, budget, **how)

    monkeypatch.setattr(Delivery, "submit", noted)
    body = {"images": [encoded(big)] * 4, "max_ensemble_size": 1}
    async with serving(decode_threads=1, max_waiting=4, max_images=4) as served:
        responses = await asyncio.gather(*(served.client.post("/predict", json=body) for _ in range(3)))
        refused = [response for response in responses if response.is_error]
        assert {(response.status_code, response.json()["type"]) for response in refused} == {
            (503, "urn:hne:problem:queue-full")
        }
        assert served.metric("hne_rejections_total", reason="queue_full") == len(refused)
        assert len(submitted) == 4 * (3 - len(refused)), "it was not the engine's queue that was full"
        assert (await served.client.post("/predict", content=photo, headers=JPEG)).status_code == 200


async def test_on_a_device_that_breaks_everyone_fails_and_is_counted(serving: Any, photo: bytes) -> None:
    async with serving() as served:
        with served.brake.broken_from(3):
            answer = (await served.client.post("/predict", content=photo, headers=JPEG)).json()
            assert (answer["ensemble_size"], answer["stop_reason"]) == (3, "error")
        assert (await served.client.post("/predict", content=photo, headers=JPEG)).status_code == 200
        with served.brake.broken_from(0):
            for path in ("/predict", "/predict/stream"):
                failed = await served.client.post(path, content=photo, headers=JPEG)
                assert "device" not in failed.text
                assert served.metric("hne_requests_total", endpoint=path, outcome="failed") == 1
        assert (await served.client.post("/predict", content=photo, headers=JPEG)).status_code == 200


async def test_while_it_drains_the_active_get_what_they_have_and_new_ones_503(serving: Any, photo: bytes) -> None:
    async with serving(drain_seconds=0.2) as served:
        client = served.client
        with served.brake.before(3):
            active = asyncio.create_task(client.post("/predict", content=photo, headers=JPEG))
            await leaf_of_one(served)
            drain = asyncio.create_task(served.app.state.service.drain())
            await asyncio.sleep(0)
            for path in ("/readyz", "/predict"):
                method = "GET" if path == "/readyz" else "POST"
                refused = await client.request(method, path, content=photo, headers=JPEG)
                assert (refused.status_code, refused.json()["type"]) == (503, "urn:hne:problem:draining")
                assert "retry-after" in refused.headers
                assert refused.headers["connection"] == "close"
            assert (await client.get("/healthz")).status_code == 200
            assert served.metric("hne_rejections_total", reason="draining") == 1
            answer = (await active).json()
            assert answer["stop_reason"] == "drain"
            assert answer["ensemble_size"] >= 1
        await drain
