"""The API through the real app: forms of bodies, budgets, lists, operation."""

from __future__ import annotations

import json
import re
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx
import numpy as np
import pytest
from fastapi.openapi.models import OpenAPI

from model_core.package import Package
from service.request import StopReason
from tests.service.bodies import JPEG, encoded

if TYPE_CHECKING:
    from model_core.grouped import HierarchicalEnsemble

pytestmark = pytest.mark.anyio


async def test_the_answer_is_the_models(
    client: httpx.AsyncClient, photo: bytes, served: Any, tiny_model: HierarchicalEnsemble
) -> None:
    import torch

    from model_core.depth_first import refine

    response = await client.post("/predict?top_k=10", content=photo, headers=JPEG)
    answer = response.json()
    assert response.status_code == 200
    assert (answer["ensemble_size"], answer["max_ensemble_size"], answer["stop_reason"]) == (16, 16, "complete")
    image = torch.from_numpy(served.app.state.service.decoder.read(photo))[None]
    with torch.no_grad():
        *_, mean_logits = refine(tiny_model, image)
    table = served.app.state.service.package.manifest.table
    expected = torch.softmax(mean_logits[0] / table[15].temperature, 0).numpy()
    probabilities = np.zeros(10)
    for prediction in answer["predictions"]:
        probabilities[prediction["class_id"]] = prediction["probability"]
        assert prediction["label"] == f"class {prediction['class_id']}"
    np.testing.assert_allclose(probabilities, expected, atol=1e-5)
    assert np.argmax(expected) == answer["predictions"][0]["class_id"]
    assert answer["flops"] == table[15].flops
    assert answer["expected_accuracy"] == table[15].accuracy
    assert 0 <= answer["queue_ms"] < answer["elapsed_ms"]


async def test_all_forms_of_the_body_get_the_same_answer(client: httpx.AsyncClient, photo: bytes) -> None:
    requests: list[dict[str, Any]] = [
        {"content": photo, "headers": JPEG, "params": {"max_ensemble_size": 3, "top_k": 2}},
        {"files": {"file": photo}, "data": {"max_ensemble_size": "3", "top_k": "2"}},
        {"files": {"image": photo}, "data": {"max_ensemble_size": "3"}, "params": {"top_k": 2}},
        {"json": {"image": encoded(photo), "max_ensemble_size": 3, "top_k": 2}},
    ]
    answers = [(await client.post("/predict", **request)).json() for request in requests]
    for answer in answers:
        assert (answer["ensemble_size"], answer["stop_reason"]) == (3, "ensemble_size")
        assert len(answer["predictions"]) == 2
        assert answer["predictions"] == answers[0]["predictions"]


async def test_flops_spent_are_those_of_the_cost_table_and_never_more(
    client: httpx.AsyncClient, photo: bytes, tiny_package: Path
) -> None:
    for row in Package.load(tiny_package).manifest.table:
        for budget, size in ((row.flops, row.ensemble_size), (row.flops - 1, row.ensemble_size - 1)):
            if size:
                answer = (await client.post(f"/predict?max_flops={budget}", content=photo, headers=JPEG)).json()
                assert answer["ensemble_size"] == size
                assert answer["flops"] <= budget
                assert answer["stop_reason"] == ("complete" if size == 16 else "flops")


async def test_enough_confidence_stops(client: httpx.AsyncClient, photo: bytes) -> None:
    answer = (await client.post("/predict?min_confidence=0.01", content=photo, headers=JPEG)).json()
    assert (answer["ensemble_size"], answer["stop_reason"]) == (1, "confidence")


async def test_several_images_get_a_list_in_their_order(client: httpx.AsyncClient, photo: bytes) -> None:
    other = photo[:-200] + bytes(198) + b"\xff\xd9"  # the same, grey at the bottom
    alone = [(await client.post("/predict", content=data, headers=JPEG)).json() for data in (photo, other)]
    body = {"images": [encoded(photo), encoded(other), encoded(photo)], "top_k": 5}
    from_json = (await client.post("/predict", json=body)).json()
    from_form = (await client.post("/predict", files=[("file", photo), ("file", other), ("file", photo)])).json()
    for answers in (from_json, from_form):
        top = [[prediction["class_id"] for prediction in answer["predictions"]] for answer in answers]
        expected = [[prediction["class_id"] for prediction in answer["predictions"]] for answer in alone]
        assert top == [expected[0], expected[1], expected[0]]
    assert len((await client.post("/predict", json={"images": [encoded(photo)]})).json()) == 1


async def test_headers_tell_id_and_timing(client: httpx.AsyncClient, photo: bytes) -> None:
    own = await client.post("/predict", content=photo, headers=JPEG | {"x-request-id": "trace-1.2:3"})
    assert own.headers["x-request-id"] == own.json()["request_id"] == "trace-1.2:3"
    names = [span.partition(";")[0] for span in own.headers["server-timing"].split(", ")]
    assert names == ["read", "queue", "compute", "total"]
    for insane in ("a b", "x" * 129, 'quote"', ""):
        new = await client.post("/predict", content=photo, headers=JPEG | {"x-request-id": insane})
        assert new.headers["x-request-id"] == new.json()["request_id"] != insane


async def test_an_api_key_where_the_service_has_some(serving: Any, photo: bytes) -> None:
    async with serving(api_keys="first, second, clé") as served:
        client = served.client
        other = {"authorization": "Bearer of a gateway", "x-api-key": "first"}
        for headers, encoding in (
            ({"authorization": "Bearer second"}, "ascii"),
            ({"x-api-key": "first"}, "ascii"),
            (other, "ascii"),
            ({"x-api-key": "clé"}, "utf-8"),
            ({"x-api-key": "clé"}, "latin-1"),
        ):
            shown = httpx.Headers(JPEG | headers, encoding)
            assert (await client.post("/predict", content=photo, headers=shown)).status_code == 200
        for headers in (
            {},
            {"authorization": "Bearer wrong"},
            {"authorization": "Basic first"},
            {"x-api-key": "first, second"},
            {"x-api-key": "kéy"},
        ):
            refused = await client.post("/predict", content=photo, headers=httpx.Headers(JPEG | headers, "utf-8"))
            assert refused.status_code == 401
            assert refused.headers["www-authenticate"] == "Bearer"
        assert (await client.get("/v1/models")).status_code == 401
        assert (await client.get("/healthz")).status_code == 200


async def test_models_show_cost_accuracy_and_latency(client: httpx.AsyncClient, tiny_package: Path) -> None:
    (card,) = (await client.get("/v1/models")).json()["models"]
    package = Package.load(tiny_package)
    assert (card["name"], card["sha256"]) == ("tiny", package.sha256)
    assert card["class_names"] == [f"class {index}" for index in range(10)]
    assert card["limits"]["max_images"] == 4
    assert card["runner"] == "onnx-cpu"
    assert [row["flops"] for row in card["table"]] == [row.flops for row in package.manifest.table]
    latencies = [row["expected_latency_ms"] for row in card["table"]]
    steps = [step["expected_ms"]["1"] for step in card["profile"]]  # of which this runner has no others
    assert latencies == pytest.approx(list(accumulate(steps)), abs=0.01)
    assert latencies[0] > 0


async def test_metrics_are_the_registrys(client: httpx.AsyncClient, photo: bytes) -> None:
    await client.post("/predict", content=photo, headers=JPEG)
    response = await client.get("/metrics")
    assert response.headers["content-type"].startswith("text/plain")
    assert 'hne_requests_total{endpoint="/predict",outcome="answered"}' in response.text
    assert 'hne_model_info{model="tiny"' in response.text
    assert "process_resident_memory_bytes" in response.text


@pytest.mark.parametrize("version", ['"1.0.0"', "abc"])
async def test_metrics_in_a_version_that_is_none_are_plain_text(client: httpx.AsyncClient, version: str) -> None:
    accept = f"application/openmetrics-text; version={version}"
    response = await client.get("/metrics", headers={"accept": accept})
    assert response.status_code == 200
    assert response.headers["content-type"].startswith("text/plain")


@pytest.mark.parametrize("path", ["/", "/healthz", "/readyz", "/metrics", "/v1/models"])
async def test_what_can_be_read_can_be_probed(client: httpx.AsyncClient, path: str) -> None:
    read, probed = await client.get(path), await client.head(path)
    assert probed.status_code == read.status_code == 200
    assert probed.headers["content-type"] == read.headers["content-type"]


async def test_the_playground_needs_nothing_from_elsewhere(client: httpx.AsyncClient) -> None:
    response = await client.get("/")
    assert response.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in response.headers["content-security-policy"]
    assert "://" not in response.text
    assert all(f" {reason}: " in response.text for reason in StopReason), "it has a word for every end"


async def test_neither_does_the_page_of_the_documentation(client: httpx.AsyncClient) -> None:
    response = await client.get("/docs")
    assert response.headers["content-type"].startswith("text/html")
    addresses = re.findall(r"""(?:src|href|url)\s*[=:]\s*['"]([^'"]+)['"]""", response.text)
    assert "/openapi.json" in addresses
    for address in addresses:
        assert address.startswith("/")
        assert (await client.get(address)).status_code == 200
    assert "://" not in response.text


async def test_the_documentation_is_valid_and_has_the_problems(client: httpx.AsyncClient) -> None:
    document = (await client.get("/openapi.json")).json()
    OpenAPI.model_validate(document)
    for path in ("/predict", "/predict/stream"):
        operation = document["paths"][path]["post"]
        assert set(operation["requestBody"]["content"]) == {"image/*", "multipart/form-data", "application/json"}
        for status in ("400", "401", "413", "415", "422", "500", "503", "504"):
            schema = operation["responses"][status]["content"]["application/problem+json"]["schema"]
            assert schema == {"$ref": "#/components/schemas/Problem"}
        assert {parameter["name"] for parameter in operation["parameters"]} >= {"deadline_ms", "x-request-timeout-ms"}
        fields = operation["requestBody"]["content"]["multipart/form-data"]["schema"]["properties"]
        assert fields["file"]["type"] == "array"
        assert "null" not in json.dumps([fields, operation["parameters"]]), "there is none in a query or a form"
    assert set(document["paths"]["/metrics"]["get"]["responses"]["200"]["content"]) == {"text/plain"}
    assert "security" not in json.dumps(document["paths"]), "anyone may ask"
    for reference in _references(document):
        assert reference.removeprefix("#/components/schemas/") in document["components"]["schemas"]


def _references(value: Any) -> list[str]:
    if isinstance(value, dict):
        own = [value["$ref"]] if isinstance(value.get("$ref"), str) else []
        return own + [reference for item in value.values() for reference in _references(item)]
    return [reference for item in value for reference in _references(item)] if isinstance(value, list) else []
