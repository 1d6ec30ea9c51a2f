"""Whatever is wrong with a request: its status, as a problem, and the service stays up."""

from __future__ import annotations

import asyncio
import base64
import encodings
import struct
import tempfile
import zlib
from collections.abc import AsyncIterator
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from service.errors import ServiceError
from service.problems import problem_of
from tests.service.bodies import JPEG

pytestmark = pytest.mark.anyio


def check_problem(response: httpx.Response, status: int) -> dict[str, Any]:
    problem: dict[str, Any] = response.json()
    assert response.status_code == problem["status"] == status, problem
    assert response.headers["content-type"] == "application/problem+json"
    assert problem["request_id"] == response.headers["x-request-id"]
    assert problem["type"]
    assert problem["title"]
    assert problem["detail"]
    return problem


@pytest.mark.parametrize("path", ["/predict", "/predict/stream"])
@pytest.mark.parametrize(
    ("query", "field", "fault"),
    [
        ("deadline_ms=-5", "query.deadline_ms", "greater than 0"),
        ("deadline_ms=nan", "query.deadline_ms", "finite"),
        ("deadline_ms=soon", "query.deadline_ms", "number"),
        ("max_flops=0", "query.max_flops", "greater than 0"),
        ("max_ensemble_size=0", "query.max_ensemble_size", "greater than or equal to 1"),
        ("min_confidence=1.5", "query.min_confidence", "less than or equal to 1"),
        ("top_k=11", "query.top_k", "the model has 10 classes"),
        ("model=other", "query.model", "valid: tiny"),
        ("deadline=5", "query.deadline", "valid: deadline_ms, max_flops"),
        ("deadline_ms=5&top_k=1&deadline_ms=50", "query.deadline_ms", "twice"),
        ("max_flops=100000000000000000000", "query.max_flops", "less than or equal to"),
        ("&".join(map(str, range(1000))) + "&" + "=&".join(map(str, range(1000))), "query", "has 1000 fields; valid"),
    ],
)
async def test_an_invalid_option_is_422_and_named(
    client: httpx.AsyncClient, photo: bytes, path: str, query: str, field: str, fault: str
) -> None:
    problem = check_problem(await client.post(f"{path}?{query}", content=photo, headers=JPEG), 422)
    assert fault in problem["errors"][field]


@pytest.mark.parametrize("given", ["0", "-1", "inf", "soon", ""])
async def test_an_invalid_timeout_header_is_422_and_named(client: httpx.AsyncClient, photo: bytes, given: str) -> None:
    headers = {**JPEG, "X-Request-Timeout-Ms": given}
    problem = check_problem(await client.post("/predict?top_k=0", content=photo, headers=headers), 422)
    assert set(problem["errors"]) == {"header.x-request-timeout-ms", "query.top_k"}


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "body.image"),
        ({"image": "", "images": [""]}, "body.image"),
        ({"images": []}, "body.images"),
        ({"images": ["QUJD"] * 5}, "body.images"),
        ({"image": "A"}, "body.image"),
        ({"image": "QUJD", "deadline": 5}, "body.deadline"),
        ({"image": "QUJD", "top_k": "many"}, "body.top_k"),
        ([], "body"),
    ],
)
async def test_an_invalid_field_of_json_is_422_and_named(client: httpx.AsyncClient, body: Any, field: str) -> None:
    assert field in check_problem(await client.post("/predict", json=body), 422)["errors"]


@pytest.mark.parametrize(
    ("given", "fault"),
    [
        ("****", "is not base64"),
        ("QUJD****QUJD", "is not base64"),
        ("QQ==QUJD", "is not base64"),
        ("-_-_", "is not base64"),
        ("data:image/jpeg;base64,QUJD", "send what follows its comma"),
    ],
)
async def test_what_is_not_base64_is_said_to_be_none(client: httpx.AsyncClient, given: str, fault: str) -> None:
    problem = check_problem(await client.post("/predict", json={"images": ["QUJD", given]}), 422)
    assert fault in problem["errors"]["body.images.1"]


async def test_base64_may_come_in_lines(client: httpx.AsyncClient, photo: bytes) -> None:
    body = {"image": base64.encodebytes(photo).decode()}
    assert (await client.post("/predict", json=body)).status_code == 200


async def test_an_invalid_form_is_422_and_named(client: httpx.AsyncClient, photo: bytes) -> None:
    for request, field in (
        ({"files": {"picture": photo}}, "body.picture"),
        ({"files": {"file": photo}, "data": {"deadline": "5"}}, "body.deadline"),
        ({"files": {"file": photo}, "data": {"top_k": ["1", "2"]}}, "body.top_k"),
        ({"files": {"file": photo}, "data": {"top_k": "1"}, "params": {"top_k": 1}}, "body.top_k"),
        ({"files": {"top_k": (None, "1")}}, "body.file"),
        ({"files": [("file", photo), ("file", photo[:300])]}, "body.file.1"),
        ({"files": [("file", photo)] * 5}, "body.file"),
        ({"files": [("file", photo)] * 9}, "body.file"),
    ):
        assert field in check_problem(await client.post("/predict", **request), 422)["errors"]


async def test_a_budget_below_the_first_leaf_is_422(client: httpx.AsyncClient, photo: bytes) -> None:
    problem = check_problem(await client.post("/predict?max_flops=1000", content=photo, headers=JPEG), 422)
    assert problem["type"] == "urn:hne:problem:invalid-budget"


async def test_bodies_that_are_not_what_they_say(client: httpx.AsyncClient, photo: bytes) -> None:
    for content, kind, status in (
        (b"", "image/jpeg", 400),
        (b"garbage", "image/jpeg", 415),
        (photo[:-300], "image/png", 422),
        (photo[:20], "image/jpeg", 422),
        (photo, "application/octet-stream", 415),
        (photo, "", 415),
        (b"{", "application/json", 400),
        (b"\xff", "application/json", 400),
        (b"no part", "multipart/form-data; boundary=x", 400),
        (b"no boundary", "multipart/form-data", 400),
    ):
        problem = check_problem(await client.post("/predict", content=content, headers={"content-type": kind}), status)
        assert problem["type"].startswith("urn:hne:problem:")


@pytest.mark.parametrize("charset", ["undefined", "utf-7", "unicode_escape", "none-of-pythons"])
async def test_a_form_in_a_charset_that_could_hold_what_no_answer_can_is_415(
    client: httpx.AsyncClient, charset: str
) -> None:
    part = b'--b\r\nContent-Disposition: form-data; name="+2AA-"; filename="a"\r\n\r\n1\r\n--b--\r\n'
    headers = {"content-type": f'multipart/form-data; boundary=b; charset="{charset}"'}
    check_problem(await client.post("/predict", content=part, headers=headers), 415)
    if charset == "none-of-pythons":  # whose names it remembers for good
        assert charset not in encodings._cache


@pytest.mark.parametrize("charset", ["UTF-8", "latin-1"])
async def test_text_that_is_not_in_the_charset_is_an_unknown_field(client: httpx.AsyncClient, charset: str) -> None:
    part = b'--b\r\nContent-Disposition: form-data; name="\xff"\r\n\r\n\xff\r\n--b--\r\n'
    headers = {"content-type": f"multipart/form-data; boundary=b; charset={charset}"}
    problem = check_problem(await client.post("/predict", content=part, headers=headers), 422)
    assert set(problem["errors"]) == {"body.\xff"}


@pytest.mark.parametrize(
    ("body", "fault"),
    [
        ({"images": [1] * 20_000}, {"body.images": "20000 images; at most 4 are allowed"}),
        ({str(key): 1 for key in range(20_000)}, None),
        ([{}] * 20_000, {"body": "is no JSON object"}),
        ({"images": 1}, {"body.images": "is no list"}),
        ({"deadline_ms": {}}, {"body.deadline_ms": "Input should be a valid number"}),
    ],
)
async def test_many_faults_are_told_in_one(client: httpx.AsyncClient, body: Any, fault: dict[str, str] | None) -> None:
    response = await client.post("/predict", json=body)
    problem = check_problem(response, 422)
    if fault is None:
        assert problem["errors"]["body"].startswith("has 20000 fields; valid: deadline_ms, ")
    else:
        assert problem["errors"] == fault
    assert len(response.content) < 1000


async def test_a_length_with_more_zeros_than_python_reads_is_a_length(client: httpx.AsyncClient, photo: bytes) -> None:
    headers = JPEG | {"content-length": "0" * 5000 + str(len(photo))}
    assert (await client.post("/predict", content=photo, headers=headers)).status_code == 200


async def test_more_bytes_of_uploads_than_there_is_room_for_are_503(serving: Any, photo: bytes) -> None:
    come, go = asyncio.Event(), asyncio.Event()

    async def slowly(size: int) -> AsyncIterator[bytes]:
        yield bytes(size)
        come.set()
        await go.wait()

    async with serving(max_body_bytes=200_000, max_upload_bytes=200_000) as served:

        def post(content: Any) -> asyncio.Task[httpx.Response]:
            return asyncio.create_task(served.client.post("/predict", content=content, headers=JPEG))

        slow = post(slowly(190_000))
        await come.wait()
        while not served.metric("hne_upload_bytes"):
            await asyncio.sleep(0)
        assert served.metric("hne_upload_bytes") == 190_000 - 65_536
        problem = check_problem(await post(bytes(195_000)), 503)
        assert problem["type"] == "urn:hne:problem:uploads-full"
        assert (await post(photo)).status_code == 200, "a small one is always taken"
        go.set()
        assert (await slow).status_code == 415
        assert served.metric("hne_upload_bytes") == 0
        assert served.metric("hne_rejections_total", reason="uploads_full") == 1
        check_problem(await post(bytes(195_000)), 415)


@pytest.mark.parametrize("disposition", ['name="file"', "name=\"file\"; filename*=UTF-8''photo.jpg"])
async def test_a_file_without_a_name_is_told_from_an_unknown_field(client: httpx.AsyncClient, disposition: str) -> None:
    part = f"--b\r\nContent-Disposition: form-data; {disposition}\r\n\r\n1\r\n--b--\r\n"
    headers = {"content-type": "multipart/form-data; boundary=b"}
    problem = check_problem(await client.post("/predict", content=part.encode(), headers=headers), 422)
    assert problem["errors"] == {"body.file": "is text; send it as a file, with a filename"}


async def test_a_large_form_needs_no_temporary_file(serving: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def rollover(file: Any) -> None:
        pytest.fail("it is written to a disk")

    monkeypatch.setattr(tempfile.SpooledTemporaryFile, "rollover", rollover)
    async with serving(max_body_bytes=5_000_000) as served:
        check_problem(await served.client.post("/predict", files={"file": bytes(3_000_000)}), 415)


async def test_of_several_images_the_one_at_fault_is_named(client: httpx.AsyncClient, photo: bytes) -> None:
    files = [("file", photo), ("file", b"garbage")]
    assert check_problem(await client.post("/predict", files=files), 415)["detail"].startswith(
        "body.file.1: not an image"
    )


async def test_too_many_bytes_or_pixels_are_413(client: httpx.AsyncClient) -> None:
    async def chunks() -> Any:
        for _ in range(30):
            yield bytes(10_000)

    check_problem(await client.post("/predict", content=bytes(200_001), headers=JPEG), 413)
    check_problem(await client.post("/predict", content=chunks(), headers=JPEG), 413)
    check_problem(await client.post("/predict", files={"file": bytes(200_000)}), 413)
    head = b"IHDR" + struct.pack(">IIBBBBB", 30_000, 30_000, 8, 2, 0, 0, 0)
    png = b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + head + struct.pack(">I", zlib.crc32(head)) + b"\0\0\0\1IDAT"
    assert "pixels" in check_problem(await client.post("/predict", content=png, headers=JPEG), 413)["detail"]


async def test_a_body_whose_head_says_that_it_is_too_large_is_not_read(client: httpx.AsyncClient) -> None:
    async def nothing() -> Any:
        pytest.fail("it was read")
        yield b""

    check_problem(await client.post("/predict", content=nothing(), headers=JPEG | {"content-length": "200001"}), 413)


async def test_unknown_paths_and_methods_are_problems_too(client: httpx.AsyncClient) -> None:
    check_problem(await client.get("/nowhere"), 404)
    assert check_problem(await client.get("/predict"), 405)["type"] == "about:blank"
    assert (await client.get("/predict")).headers["allow"] == "POST"


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    content=st.binary(max_size=300)
    | st.from_regex(rb'\{"image": ?"[A-Za-z0-9+/=]*"(, ?"top_k": ?.*)?\}', fullmatch=True),
    kind=st.sampled_from(["image/jpeg", "application/json", "multipart/form-data; boundary=b", "text/plain"]),
    start=st.sampled_from(
        [b"", b"\xff\xd8\xff\xe0", b"\x89PNG\r\n\x1a\n", b"GIF89a", b"RIFF....WEBP", b"BM", b"--b\r\n"]
    ),
)
async def test_no_body_breaks_the_service(client: httpx.AsyncClient, content: bytes, kind: str, start: bytes) -> None:
    response = await client.post("/predict", content=start + content, headers={"content-type": kind})
    if response.status_code != 200:
        assert response.status_code in {400, 413, 415, 422}
        check_problem(response, response.status_code)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(position=st.integers(0, 10_000), value=st.integers(0, 255))
async def test_no_flipped_byte_breaks_the_service(
    client: httpx.AsyncClient, photo: bytes, position: int, value: int
) -> None:
    broken = bytearray(photo)
    broken[position % len(photo)] = value
    body = {"image": base64.b64encode(broken).decode(), "max_ensemble_size": 1}
    assert (await client.post("/predict", json=body)).status_code in {200, 413, 415, 422}


@pytest.mark.parametrize("fault", [ServiceError("secret path"), KeyError("secret path")])
def test_our_own_faults_are_in_the_log_under_the_request_and_tell_the_client_nothing(
    fault: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    problem = problem_of(fault, "the-id")
    assert problem.status == 500
    assert "secret" not in problem.model_dump_json()
    assert "the-id" in caplog.text
    assert "secret path" in caplog.text
