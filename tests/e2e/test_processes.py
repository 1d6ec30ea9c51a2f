"""`hne-serve --api-processes 2`: what a user notices of its processes, above all when one of them dies."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import NoReturn

import httpx
import pytest
from httpx_sse import aconnect_sse

from tests.e2e.running import PATIENCE, Running, gone, ignores_hangups, loads_the_runner, name_of, stopped
from tests.e2e.servers import launched, wait_until_ready
from tests.e2e.streams import last_events, leave_mid_stream

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(sys.platform != "linux", reason="looks at the processes in /proc"),
]

NOHUP = "import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN); from service import cli; cli.main()"


@pytest.fixture(scope="module")
def services(tiny_package: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Running]]:
    """Services that have nothing to do with each other, started together to save time."""
    with ExitStack() as stack:
        started = []
        for name, count in (("a", 2), ("b", 1), ("c", 2), ("d", 1)):
            folder = tmp_path_factory.mktemp(name)
            flags = ("--api-processes", str(count), "--drain-seconds", "30")
            started.append((stack.enter_context(launched(tiny_package, *flags, TMPDIR=str(folder))), folder))
        yield [Running(wait_until_ready(process), process, folder) for process, folder in started]


@pytest.fixture
def service(services: list[Running]) -> Running:
    """One that every test leaves as it was."""
    return services[0]


async def stream(client: httpx.AsyncClient, photo: bytes) -> list[tuple[str, dict[str, object]]]:
    async with aconnect_sse(client, "POST", "/predict/stream", files={"file": photo}) as source:
        return [(event.event, event.json()) async for event in source.aiter_sse()]


async def knock(host: str, port: int) -> NoReturn:
    """Connect again and again."""
    while True:
        with suppress(ConnectionResetError):  # the socket was closed between two packets of the handshake
            _, writer = await asyncio.open_connection(host, port)
            writer.close()


async def status(url: str, path: str, photo: bytes | None = None) -> tuple[int, str]:
    """Of an answer on a connection of its own, and the problem's kind."""
    async with httpx.AsyncClient(base_url=url, timeout=PATIENCE) as client:
        response = await (client.get(path) if photo is None else client.post(path, files={"file": photo}))
        return response.status_code, response.json().get("type", "") if response.is_error else ""


async def test_each_api_process_predicts_and_streams_while_the_other_hangs(service: Running, photo: bytes) -> None:
    assert [name_of(api) for api in service.apis] == ["hne-api"] * 2
    assert [loads_the_runner(process) for process in (service.engine, *service.apis)] == [True, False, False]
    for other in service.apis:
        with stopped(other):
            async with httpx.AsyncClient(base_url=service.url, timeout=PATIENCE) as client:
                answer = (await client.post("/predict", files={"file": photo})).json()
                assert (answer["stop_reason"], answer["ensemble_size"]) == ("complete", 16)
                events = await stream(client, photo)
                assert (events[0][0], events[-1][0], events[-1][1]["ensemble_size"]) == ("start", "done", 16)
                assert (await client.post("/predict?max_flops=1", files={"file": photo})).status_code == 422
                assert (await client.get("/v1/models")).json()["models"][0]["runner"] == "onnx-cpu"


async def test_every_api_process_shows_the_figures_of_all(service: Running, photo: bytes) -> None:
    def requests(text: str) -> float:
        lines = (line for line in text.splitlines() if line.startswith("hne_request_duration_seconds_count"))
        return float(next(lines).split()[1])

    async def shown() -> float:
        async with httpx.AsyncClient(base_url=service.url, timeout=PATIENCE) as client:
            return requests((await client.get("/metrics")).text)

    before = await shown()
    seen = []
    for other in service.apis:
        with stopped(other):
            async with httpx.AsyncClient(base_url=service.url, timeout=PATIENCE) as client:
                for _ in range(3):
                    await client.post("/predict", files={"file": photo})
            seen.append(await shown())
    assert seen[0] >= before + 3, "a process shows its own at once"
    async with asyncio.timeout(PATIENCE):
        while await shown() != before + 6:
            pass


async def test_clients_that_leave_mid_stream_leave_nothing_behind(service: Running, photo: bytes) -> None:
    await leave_mid_stream(service.url, photo)


async def test_a_killed_api_process_is_replaced(service: Running, photo: bytes) -> None:
    killed, survivor = service.apis
    os.kill(killed, signal.SIGKILL)
    async with asyncio.timeout(PATIENCE):
        while len(service.apis) != 2 or killed in service.apis:
            await asyncio.sleep(0)
        with stopped(survivor):  # who connects waits for the new one
            while (await status(service.url, "/readyz"))[0] != 200:
                pass
            assert (await status(service.url, "/predict", photo))[0] == 200
    assert service.process.poll() is None


async def test_a_hangup_replaces_the_api_processes_and_nothing_else(service: Running, photo: bytes) -> None:
    before, apis, answers = service.alive(), service.apis, {200}
    os.killpg(service.process.pid, signal.SIGHUP)  # as when a terminal closes
    async with asyncio.timeout(PATIENCE):
        while len(service.apis) != 2 or service.apis & apis:
            answers.add((await status(service.url, "/predict", photo))[0])
    answers.add((await status(service.url, "/predict", photo))[0])
    assert answers == {200}, "nobody notices"
    assert before - apis == service.alive() - service.apis


async def test_who_is_not_through_when_a_hangup_replaces_its_process_gets_what_there_is(
    tiny_package: Path, tmp_path: Path, photo: bytes
) -> None:
    flags = ("--api-processes", "1", "--drain-seconds", "1")
    with launched(tiny_package, *flags, TMPDIR=str(tmp_path)) as process:
        service = Running(wait_until_ready(process), process, tmp_path)
        with stopped(service.engine):
            asked = asyncio.create_task(status(service.url, "/predict", photo))
            process.send_signal(signal.SIGHUP)  # a new process takes longer to start than that takes to come in
            assert await asked == (503, "urn:hne:problem:draining")


@pytest.mark.parametrize("change", ["{", None], ids=["broken", "another model"])
async def test_where_no_new_api_process_can_start_a_hangup_leaves_those_that_serve(
    change: str | None, tiny_package: Path, tmp_path: Path, photo: bytes
) -> None:
    model = Path(shutil.copytree(tiny_package, tmp_path / "model"))
    with launched(model, "--api-processes", "2", TMPDIR=str(tmp_path)) as process:
        service = Running(wait_until_ready(process), process, tmp_path)
        manifest = model / "manifest.json"
        manifest.write_text(change or manifest.read_text().replace('"name": "', '"name": "other-', 1))
        apis = service.apis
        process.send_signal(signal.SIGHUP)
        assert process.stderr is not None
        async with asyncio.timeout(PATIENCE):
            while "those that serve are kept" not in (line := await asyncio.to_thread(process.stderr.readline)):
                assert line, "it has ended"
        assert service.apis == apis
        assert (await status(service.url, "/predict", photo))[0] == 200
        process.terminate()
        assert process.wait(PATIENCE) == 0


async def test_a_signal_that_comes_while_a_new_api_process_starts_is_heard(tiny_package: Path, tmp_path: Path) -> None:
    with launched(tiny_package, "--api-processes", "1", TMPDIR=str(tmp_path)) as process:
        wait_until_ready(process)
        service = Running("", process, tmp_path)
        before = service.apis
        process.send_signal(signal.SIGHUP)
        async with asyncio.timeout(PATIENCE):
            while len(service.apis) < 2:
                await asyncio.sleep(0)
        (new,) = service.apis - before
        os.kill(new, signal.SIGSTOP)  # it would take for ever
        process.terminate()
        assert process.wait(PATIENCE) == 0
        await gone(service)


async def test_started_by_nohup_it_outlives_its_terminal(tiny_package: Path, tmp_path: Path, photo: bytes) -> None:
    flags = ("--api-processes", "1")
    with launched(tiny_package, *flags, program=NOHUP, TMPDIR=str(tmp_path)) as process:
        service = Running(wait_until_ready(process), process, tmp_path)
        assert all(map(ignores_hangups, service.alive()))
        os.killpg(process.pid, signal.SIGHUP)
        assert (await status(service.url, "/predict", photo))[0] == 200
        process.terminate()
        assert process.wait(PATIENCE) == 0
        assert process.stderr is not None
        assert process.stderr.read() == ""
        await gone(service)


async def test_without_the_engine_nobody_is_served_and_the_service_ends(services: list[Running], photo: bytes) -> None:
    service = services[1]
    with stopped(service.process.pid):  # so that the end can be looked at
        os.kill(service.engine, signal.SIGKILL)
        lost = (503, "urn:hne:problem:engine-lost")
        async with asyncio.timeout(PATIENCE):
            while await status(service.url, "/readyz") != lost:
                pass
        assert await status(service.url, "/predict", photo) == lost
        assert await status(service.url, "/metrics") == lost
    assert service.process.wait(PATIENCE) == 1
    assert service.process.stderr is not None
    assert "the engine process ended, with status -9" in service.process.stderr.read()
    await gone(service)
    assert not list(service.folder.iterdir())


@pytest.mark.parametrize(("index", "to_all"), [(2, False), (3, True)], ids=["SIGTERM", "Ctrl-C"])
async def test_told_to_end_it_answers_everyone_first(
    services: list[Running], photo: bytes, index: int, to_all: bool
) -> None:
    service = services[index]

    def end() -> None:
        if to_all:
            os.killpg(service.process.pid, signal.SIGINT)
        else:
            service.process.send_signal(signal.SIGTERM)

    ends = await last_events(service.url, photo, all_started=end)
    assert all(end in {("done", "complete"), ("done", "drain")} for end in ends)
    assert service.process.wait(PATIENCE) == 0
    assert service.process.stderr is not None
    assert service.process.stderr.read() == ""
    await gone(service)
    assert not list(service.folder.iterdir())


async def test_who_connects_while_the_last_answer_is_waited_for_is_refused(tiny_package: Path, tmp_path: Path) -> None:
    flags = ("--api-processes", "2", "--drain-seconds", "30")
    with launched(tiny_package, *flags, TMPDIR=str(tmp_path)) as process:
        host, port = wait_until_ready(process).removeprefix("http://").split(":")
        reader, writer = await asyncio.open_connection(host, int(port))
        head = b"POST /predict HTTP/1.1\r\nhost: x\r\ncontent-type: image/jpeg\r\nexpect: 100-continue\r\n"
        writer.write(head + b"content-length: 1\r\n\r\n")
        assert await reader.readuntil(b"\r\n\r\n") == b"HTTP/1.1 100 Continue\r\n\r\n"
        process.terminate()
        with pytest.raises(ConnectionRefusedError):
            await knock(host, int(port))
        assert process.poll() is None
        writer.write(b"x")
        assert (await reader.readline()).startswith(b"HTTP/1.1 4")
        writer.close()
        assert process.wait(PATIENCE) == 0


async def test_a_killed_supervisor_leaves_no_process_behind(services: list[Running]) -> None:
    service = services[0]
    service.process.kill()
    await gone(service)


@pytest.mark.parametrize("broken", [False, True], ids=["by another", "by none"])
async def test_a_model_that_is_replaced_under_it_ends_the_service(
    tiny_package: Path, tmp_path: Path, broken: bool
) -> None:
    """Instead of serving two models, or none from a process that is started again and again."""
    model = Path(shutil.copytree(tiny_package, tmp_path / "model"))
    with launched(model, "--api-processes", "1", TMPDIR=str(tmp_path)) as process:
        wait_until_ready(process)
        service = Running("", process, tmp_path)
        manifest = model / "manifest.json"
        other = json.dumps(json.loads(manifest.read_text()) | {"version": "9.9.9"})
        manifest.write_text("{" if broken else other)
        (api,) = service.apis
        os.kill(api, signal.SIGKILL)
        assert process.wait(PATIENCE) == 1
        assert process.stderr is not None
        assert "was changed" in process.stderr.read()
        await gone(service)


def test_a_model_that_cannot_be_served_ends_all_with_a_word(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "service.cli", "--model", str(tmp_path), "--api-processes", "1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("hne-serve: ")
    assert "Traceback" not in done.stderr
