"""`Accept` of a prediction: JSON, or the stream of events."""

from __future__ import annotations

import httpx
import pytest

from tests.service.bodies import JPEG, encoded

pytestmark = pytest.mark.anyio

EVENTS, JSON = "text/event-stream", "application/json"


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        (["*/*"], JSON),
        (["text/event-stream"], EVENTS),
        (["Text/Event-Stream; charset=utf-8"], EVENTS),
        (["text/event-stream, */*"], EVENTS),
        (["text/event-stream;q=0.5, */*;q=0.1"], EVENTS),
        (["application/json;q=0.5, text/event-stream;Q=0.7"], EVENTS),
        (["application/json;q=0, */*, text/event-stream;q=0.1"], EVENTS),
        (["text/event-stream;q=often"], EVENTS),
        (["text/html", "text/event-stream"], EVENTS),
        (["text/event-stream;q=0, application/json"], JSON),
        (["text/event-stream;q=0"], JSON),
        (["application/json, text/event-stream"], JSON),
        (["application/json, text/event-stream;q=0.1"], JSON),
        (["text/event-stream;q=0.5, application/*"], JSON),
        (["application/json", "text/event-stream"], JSON),
        (["application/vnd.event-stream+json"], JSON),
    ],
)
async def test_the_answer_has_the_form_that_is_preferred(
    client: httpx.AsyncClient, photo: bytes, accept: list[str], kind: str
) -> None:
    headers = [*JPEG.items(), *(("accept", line) for line in accept)]
    response = await client.post("/predict?max_ensemble_size=1", content=photo, headers=headers)
    assert response.status_code == 200
    assert response.headers["content-type"].partition(";")[0] == kind


async def test_several_images_are_answered_in_json_by_whoever_takes_that_too(
    client: httpx.AsyncClient, photo: bytes
) -> None:
    body = {"images": [encoded(photo)] * 2, "max_ensemble_size": 1}
    response = await client.post("/predict", json=body, headers={"accept": "text/event-stream, */*;q=0.1"})
    assert response.status_code == 200
    assert [answer["ensemble_size"] for answer in response.json()] == [1, 1]
    for path, accept in (("/predict", "text/event-stream"), ("/predict/stream", "text/event-stream, */*")):
        refused = await client.post(path, json=body, headers={"accept": accept})
        assert refused.status_code == 422
        assert "one image" in refused.json()["errors"]["body.images"]
