"""The stream: events as they are on the wire."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable, Callable
from typing import Any

import httpx
import pytest
from httpx_sse import EventSource, ServerSentEvent, aconnect_sse
from starlette.requests import ClientDisconnect

from service.stream import until_disconnect
from tests.service.bodies import JPEG

pytestmark = pytest.mark.anyio


async def events_of(client: httpx.AsyncClient, path: str, **request: Any) -> list[ServerSentEvent]:
    headers = dict(request.pop("headers"))  # the library adds to it
    async with aconnect_sse(client, "POST", path, headers=headers, **request) as source:
        source.response.raise_for_status()
        return [event async for event in source.aiter_sse()]


def scope() -> dict[str, Any]:
    """Of a request for a stream whose body is a JPEG."""
    headers = [(b"content-type", b"image/jpeg")]
    return {"type": "http", "method": "POST", "path": "/predict/stream", "query_string": b"", "headers": headers}


def sender_of(photo: bytes) -> Callable[[], Awaitable[dict[str, Any]]]:
    """What an app receives from a client that sends a photo, and stays."""
    body = [{"type": "http.request", "body": photo, "more_body": False}]

    async def receive() -> dict[str, Any]:
        if not body:
            await asyncio.Event().wait()
        return body.pop()

    return receive


@pytest.mark.parametrize("path", ["/predict/stream", "/predict"])
async def test_start_then_growing_predictions_then_one_done(client: httpx.AsyncClient, photo: bytes, path: str) -> None:
    events = await events_of(client, f"{path}?max_ensemble_size=12&top_k=2", content=photo, headers=JPEG)
    start, *predictions, done = events
    assert [event.event for event in events] == ["start", *["prediction"] * len(predictions), "done"]
    assert [int(event.id) for event in events] == list(range(len(events)))
    assert start.json()["max_ensemble_size"] == 16
    assert start.json()["deadline_ms"] == 30_000
    answers = [event.json() for event in predictions]
    for name in ("ensemble_size", "flops", "elapsed_ms"):
        values = [answer[name] for answer in answers]
        assert values == sorted(set(values))
    assert all(answer["stop_reason"] is None for answer in answers)
    whole = done.json()
    assert (whole["ensemble_size"], whole["stop_reason"]) == (12, "ensemble_size")
    plain = (await client.post("/predict?max_ensemble_size=12&top_k=2", content=photo, headers=JPEG)).json()
    assert whole.keys() == plain.keys()
    assert whole["predictions"] == plain["predictions"]
    assert len({event.json()["request_id"] for event in events}) == 1


async def test_it_is_not_to_be_cached_or_buffered(client: httpx.AsyncClient, photo: bytes) -> None:
    response = await client.post("/predict/stream", content=photo, headers=JPEG | {"x-request-id": "mine"})
    assert response.headers["content-type"].startswith("text/event-stream")
    assert (response.headers["cache-control"], response.headers["x-accel-buffering"]) == ("no-cache", "no")
    assert response.headers["x-request-id"] == "mine"


async def test_what_is_wrong_before_the_start_is_a_status(client: httpx.AsyncClient, photo: bytes) -> None:
    for path in ("/predict/stream", "/predict"):
        refused = await client.post(path, content=b"garbage", headers=JPEG | {"accept": "text/event-stream"})
        assert (refused.status_code, refused.headers["content-type"]) == (415, "application/problem+json")


async def test_several_images_cannot_be_streamed(client: httpx.AsyncClient) -> None:
    refused = await client.post("/predict/stream", json={"images": ["QUJD", "QUJD"]})
    assert refused.status_code == 422
    assert "one image" in refused.json()["errors"]["body.images"]


async def test_at_the_deadline_it_ends_with_what_it_has(serving: Any, photo: bytes) -> None:
    async with serving() as served:
        with served.brake.before(1):
            events = await events_of(served.client, "/predict/stream?deadline_ms=300", content=photo, headers=JPEG)
    assert [event.event for event in events] == ["start", "prediction", "done"]
    assert events[-1].json()["stop_reason"] == "deadline"


async def test_without_a_leaf_by_the_deadline_it_ends_with_a_problem(serving: Any, photo: bytes) -> None:
    async with serving() as served:
        with served.brake.before(0):
            events = await events_of(served.client, "/predict/stream?deadline_ms=150", content=photo, headers=JPEG)
        outcome = served.metric("hne_requests_total", endpoint="/predict/stream", outcome="deadline_missed")
    assert [event.event for event in events] == ["start", "error"]
    assert events[-1].json()["status"] == 504
    assert outcome == 1


async def test_a_reader_that_stalls_skips_to_the_latest_and_slows_nobody(serving: Any, photo: bytes) -> None:
    reads_on, sent = asyncio.Event(), []

    async def send(message: dict[str, Any]) -> None:
        if b"event: prediction" in message.get("body", b""):
            await reads_on.wait()
        sent.append(message.get("body", b""))

    async with serving() as served:
        stalled = asyncio.create_task(served.app(scope(), sender_of(photo), send))
        async with asyncio.timeout(10):
            while served.metric("hne_step_duration_seconds_count", ensemble_size="16", width="1") != 1:
                await asyncio.sleep(0)
        assert (await served.client.post("/predict", content=photo, headers=JPEG)).status_code == 200
        reads_on.set()
        await stalled
    data = [json.loads(chunk.split(b"data: ")[1]) for chunk in sent if b"data: " in chunk]
    sizes = [event["ensemble_size"] for event in data[1:]]
    assert sizes[-1] == 16
    assert len(sizes) <= 4  # the first, the one it stalled on, the latest, done


async def test_a_client_that_leaves_cancels_the_block_and_nothing_else() -> None:
    left = asyncio.Event()

    async def receive() -> dict[str, str]:
        await left.wait()
        return {"type": "http.disconnect"}

    async def never() -> dict[str, Any]:
        await asyncio.Event().wait()
        raise AssertionError

    async with until_disconnect(receive):
        pass
    left.set()
    with pytest.raises(ClientDisconnect):
        async with until_disconnect(receive):
            await asyncio.Event().wait()
    with pytest.raises(TimeoutError):
        async with until_disconnect(never):
            raise TimeoutError


async def test_while_there_is_nothing_to_tell_comments_keep_the_connection_open(
    serving: Any, photo: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("service.stream.PING_SECONDS", 0.01)
    pinged, sent = asyncio.Event(), b""

    async def send(message: dict[str, Any]) -> None:
        nonlocal sent
        sent += message.get("body", b"")
        if message.get("body", b"").startswith(b":"):
            pinged.set()

    async with serving() as served:
        with served.brake.before(0):
            stream = asyncio.create_task(served.app(scope(), sender_of(photo), send))
            async with asyncio.timeout(10):
                await pinged.wait()
        await stream
    response = httpx.Response(200, headers={"content-type": "text/event-stream"}, content=sent)
    # After a comment the library gives an event without data, which by the standard is none.
    events = [event.event for event in EventSource(response).iter_sse() if event.data]
    assert sent.startswith(b"event: start\n")
    assert b"\n\n: ping\n\n" in sent
    assert (events[0], events[-1]) == ("start", "done")
    assert set(events[1:-1]) == {"prediction"}, "a reader of events sees no ping"
