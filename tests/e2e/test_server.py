"""`hne-serve` as a user runs it: a process of its own on a free port of the loopback interface."""

from __future__ import annotations

import asyncio
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from httpx_sse import aconnect_sse

from service.engine import HOPELESS, HOPELESS_SECONDS
from tests.e2e.servers import free_port, launched, server, until_it_says, wait_until_ready
from tests.e2e.streams import last_events, leave_mid_stream

pytestmark = pytest.mark.anyio

PATIENCE = 60
BREAKING = """
from service import cli, single
from service.runners.onnx import OnnxRunner

def broken(*_):
    raise RuntimeError("CUDA error: an illegal memory access was encountered")

single.keep_for_good = lambda: setattr(OnnxRunner, "run", broken)  # what happens last before it is ready
cli.main()
"""
STARTING = """
import time
from service import app, cli

app.build_engine = lambda *_, **__: time.sleep(3600)  # as it loads, and measures
cli.main()
"""


@pytest.fixture(scope="module")
def url(tiny_package: Path) -> Iterator[str]:
    with server(tiny_package) as (url, _):
        yield url


async def test_it_predicts_within_a_deadline(url: str, photo: bytes) -> None:
    async with httpx.AsyncClient(base_url=url) as client:
        response = await client.post("/predict?deadline_ms=10000", files={"file": photo})
        answer = response.json()
        assert (response.status_code, answer["stop_reason"]) == (200, "complete")
        assert (await client.get("/readyz")).json() == {"status": "ready"}
        assert "hne_requests_total" in (await client.get("/metrics")).text


async def test_a_prediction_refines_before_the_answer_ends(url: str, photo: bytes) -> None:
    async with (
        httpx.AsyncClient(base_url=url) as client,
        aconnect_sse(client, "POST", "/predict/stream", files={"file": photo}) as source,
    ):
        events = [event async for event in source.aiter_sse()]
    assert (events[0].event, events[-1].event) == ("start", "done")
    sizes = [event.json()["ensemble_size"] for event in events[1:-1]]
    assert sizes == sorted(set(sizes))
    assert sizes[-1] == 16


async def test_clients_that_leave_mid_stream_leave_nothing_behind(url: str, photo: bytes) -> None:
    await leave_mid_stream(url, photo)
    async with httpx.AsyncClient(base_url=url) as client:
        assert (await client.post("/predict", files={"file": photo})).json()["stop_reason"] == "complete"


async def test_half_an_upload_harms_nobody(url: str, photo: bytes) -> None:
    host, port = url.removeprefix("http://").split(":")
    _, writer = await asyncio.open_connection(host, int(port))
    writer.write(
        b"POST /predict HTTP/1.1\r\nHost: x\r\nContent-Type: image/jpeg\r\nContent-Length: 999\r\n\r\n\xff\xd8"
    )
    await writer.drain()
    writer.close()
    await writer.wait_closed()
    async with httpx.AsyncClient(base_url=url) as client:
        assert (await client.post("/predict", files={"file": photo})).status_code == 200


@pytest.mark.parametrize("told", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "Ctrl-C"])
async def test_told_to_end_it_answers_the_active_and_ends(
    tiny_package: Path, photo: bytes, told: signal.Signals
) -> None:
    with server(tiny_package, "--drain-seconds", "5") as (url, process):
        ends = await last_events(url, photo, all_started=lambda: process.send_signal(told))
        assert all(end in {("done", "complete"), ("done", "drain")} for end in ends)
        assert process.wait(10) == 0
        assert process.stderr is not None
        assert process.stderr.read() == ""


async def test_sigterm_under_load_leaves_no_request_without_an_answer(tiny_package: Path, photo: bytes) -> None:
    with server(tiny_package) as (url, process):
        limits = httpx.Limits(max_connections=48)
        async with httpx.AsyncClient(base_url=url, timeout=20, limits=limits) as client:

            async def until_refused() -> set[int]:
                statuses: set[int] = set()
                while 503 not in statuses:
                    response = await client.post("/predict", content=photo, headers={"Content-Type": "image/jpeg"})
                    statuses.add(response.status_code)
                return statuses

            async def told_to_end() -> None:
                await asyncio.sleep(0.5)
                process.send_signal(signal.SIGTERM)

            *ends, _ = await asyncio.gather(*(until_refused() for _ in range(48)), told_to_end())
        assert all(end == {200, 503} for end in ends)
        assert process.wait(10) == 0


def test_an_engine_that_breaks_ends_the_service(tiny_package: Path, photo: bytes) -> None:
    with launched(tiny_package, program=BREAKING) as process:
        with httpx.Client(base_url=wait_until_ready(process), timeout=PATIENCE) as client:
            for _ in range(HOPELESS):
                assert client.post("/predict", files={"file": photo}).status_code == 500
                time.sleep(HOPELESS_SECONDS / (HOPELESS - 1))
        assert process.wait(PATIENCE) == 1
        assert process.stderr is not None
        assert process.stderr.read().endswith("hne-serve: the engine has ended by a fault; the log says which\n")


def test_a_package_that_cannot_be_served_ends_it_with_a_word(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "service.cli", "--model", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("hne-serve: ")
    assert "manifest.json" in done.stderr
    assert "Traceback" not in done.stderr


async def test_an_upload_that_does_not_end_is_told_that_the_service_does(tiny_package: Path, photo: bytes) -> None:
    with server(tiny_package, "--drain-seconds", "0.5") as (url, process):
        host, port = url.removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        head = b"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-type: image/jpeg\r\nexpect: 100-continue\r\n"
        writer.write(head + b"content-length: %d\r\n\r\n" % len(photo))
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        writer.write(photo[:100])
        process.terminate()
        async with asyncio.timeout(PATIENCE):
            answer = await reader.read()
        writer.close()
        assert answer.startswith(b"HTTP/1.1 503 ")
        assert b"urn:hne:problem:draining" in answer
        assert process.wait(PATIENCE) == 0
        assert process.stderr is not None
        assert "Traceback" not in process.stderr.read()


@pytest.mark.parametrize("told", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "Ctrl-C"])
async def test_told_to_end_while_it_starts_it_ends(tiny_package: Path, told: signal.Signals) -> None:
    port = free_port()
    with launched(tiny_package, port=port, program=STARTING) as process:
        await until_it_says(port, 503)
        process.send_signal(told)
        assert process.wait(PATIENCE) == 0
        assert process.communicate() == ("", "")
