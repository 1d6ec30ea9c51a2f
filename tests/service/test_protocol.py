"""When a request came is when the server read it, not when its task had its turn. And what becomes of connections."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any

import pytest
import uvicorn
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send

import service.protocol
from service.arrival import Arrival, Head
from service.protocol import MAX_HEAD_BYTES, server_config
from service.settings import Settings

pytestmark = pytest.mark.anyio

REQUEST = b"GET / HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n"
BUSY = 0.5
"""Seconds that a request keeps the event loop from all others."""
SETTINGS = Settings.model_validate({})
OFFER = b"connection: Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAAQAoAAAAAIAAAAA\r\n"


async def busy(scope: Scope, receive: Receive, send: Send) -> None:
    until = time.monotonic() + BUSY
    while time.monotonic() < until:
        pass
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body"})


async def echo(scope: Scope, receive: Receive, send: Send) -> None:
    request = Request(scope, receive)
    body = await request.body()
    await PlainTextResponse(b"%b %b %b\n" % (scope["method"].encode(), scope["raw_path"], body))(scope, receive, send)


async def refuse(scope: Scope, receive: Receive, send: Send) -> None:
    """Before the body is read."""
    await PlainTextResponse(b"no", 413)(scope, receive, send)


@asynccontextmanager
async def serving(heads: list[Head], app: ASGIApp = busy, **config: Any) -> AsyncIterator[uvicorn.Server]:
    """A server of an app, with the configuration of ours; the heads of its requests are added when they are over."""
    app = Arrival(app, clock=time.monotonic, waited=lambda: 0.0, on_end=lambda path, head, seconds: heads.append(head))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = uvicorn.Server(server_config(app, SETTINGS, lifespan="off", **config))
        task = asyncio.create_task(server.serve(sockets=[listening]))
        try:
            while not server.started:
                await asyncio.sleep(0.01)
            yield server
        finally:
            server.should_exit = True
            await task


async def connection(server: uvicorn.Server) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    return await asyncio.open_connection(*server.servers[0].sockets[0].getsockname())


async def test_a_request_has_been_there_since_it_was_read() -> None:
    heads: list[Head] = []
    async with serving(heads) as server:
        clients = [await connection(server) for _ in range(2)]
        while len(server.server_state.connections) < 2:
            await asyncio.sleep(0.01)
        before = time.monotonic()
        for _, writer in clients:
            writer.write(REQUEST)
        for reader, writer in clients:
            assert (await reader.read()).startswith(b"HTTP/1.1 204")
            writer.close()
    first, second = heads
    assert before <= first.arrived_at <= second.arrived_at < before + BUSY
    assert second.seen_at - second.arrived_at >= BUSY, "it waited for the other one's turn to end"


async def test_a_head_that_comes_in_pieces_has_come_with_its_last() -> None:
    heads: list[Head] = []
    async with serving(heads) as server:
        reader, writer = await connection(server)
        writer.write(REQUEST[:20])
        while not any(getattr(taken, "headers", None) is not None for taken in server.server_state.connections):
            await asyncio.sleep(0.01)  # until its beginning has been read
        last = time.monotonic()
        writer.write(REQUEST[20:])
        await reader.read()
        writer.close()
    assert heads[0].arrived_at >= last


@pytest.mark.parametrize("in_pieces", [False, True], ids=["at once", "in pieces"])
@pytest.mark.parametrize(
    "framing",
    [
        b"content-length: 5\r\n\r\nhello",
        b"transfer-encoding: chunked\r\n\r\n3\r\nhel\r\n2;a=b\r\nlo\r\n0\r\nafter: all\r\n\r\n",
        b"connection: close\r\ncontent-length: 5\r\n\r\nhello",
    ],
    ids=["length", "chunks", "close"],
)
@pytest.mark.parametrize("version", [b"1.1", b"1.0"])
async def test_an_upgrade_that_is_offered_costs_no_request_its_body(
    version: bytes, framing: bytes, in_pieces: bool, caplog: pytest.LogCaptureFixture
) -> None:
    request = b"POST /a?b=c HTTP/%b\r\nhost: test\r\n%b%b" % (version, OFFER, framing)
    stays = version == b"1.1" and b"close" not in framing
    sent = request * 2 + REQUEST if stays else request
    heads: list[Head] = []
    async with serving(heads, echo) as server:
        reader, writer = await connection(server)
        before = time.monotonic()
        for start in range(0, len(sent), step := 1 if in_pieces else len(sent)):
            writer.write(sent[start : start + step])
            await asyncio.sleep(0)
        answer = await reader.read()
        writer.close()
    assert answer.count(b"HTTP/1.1 200 OK") == len(heads) == (3 if stays else 1)
    assert answer.count(b"\r\n\r\nPOST /a hello\n") == (2 if stays else 1)
    assert all(before <= head.arrived_at <= head.seen_at for head in heads)
    assert not caplog.records


@pytest.mark.parametrize("target", [b"test:80", b"/a"])
async def test_a_tunnel_is_refused_and_nothing_after_it_is_read(target: bytes) -> None:
    heads: list[Head] = []
    async with serving(heads, echo) as server:
        reader, writer = await connection(server)
        writer.write(b"CONNECT %b HTTP/1.1\r\nhost: test\r\n\r\n%b" % (target, REQUEST))
        answer = await reader.read()
        writer.close()
    assert answer.startswith(b"HTTP/1.1 400")
    assert answer.count(b"HTTP/1.1") == 1
    assert not heads


async def test_a_client_that_leaves_takes_along_the_request_that_others_wait_behind(
    caplog: pytest.LogCaptureFixture,
) -> None:
    begun = asyncio.Event()

    async def patient(scope: Scope, receive: Receive, send: Send) -> None:
        begun.set()
        while (await receive())["type"] != "http.disconnect":
            pass
        await PlainTextResponse("too late")(scope, receive, send)

    heads: list[Head] = []
    async with serving(heads, patient) as server:
        _, writer = await connection(server)
        writer.write(b"GET / HTTP/1.1\r\nhost: test\r\n\r\n" * 2)
        async with asyncio.timeout(10):
            await begun.wait()
            while not any(getattr(taken, "pipeline", None) for taken in server.server_state.connections):
                await asyncio.sleep(0.01)
            writer.transport.abort()
            while not heads:
                await asyncio.sleep(0.01)
    assert len(heads) == 1, "and the other was never begun"
    assert not caplog.records


@pytest.mark.parametrize("sent", [b"", REQUEST[:20]], ids=["nothing", "half a head"])
async def test_a_connection_that_asks_nothing_is_closed(sent: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service.protocol, "IDLE_SECONDS", 0.2)
    async with serving([]) as server:
        reader, writer = await connection(server)
        writer.write(sent)
        async with asyncio.timeout(10):
            assert await reader.read() == b""
        writer.close()


async def test_one_that_has_asked_is_kept_for_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service.protocol, "IDLE_SECONDS", 0.2)
    async with serving([], echo) as server:
        reader, writer = await connection(server)
        for _ in range(2):
            writer.write(b"GET / HTTP/1.1\r\nhost: test\r\n\r\n")
            assert (await reader.readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
            await reader.readuntil(b"\n")
            await asyncio.sleep(0.4)  # in which it would be closed
        writer.close()


async def test_so_is_one_whose_body_came_after_its_answer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service.protocol, "IDLE_SECONDS", 0.2)
    async with serving([], refuse) as server:
        reader, writer = await connection(server)
        writer.write(b"POST / HTTP/1.1\r\nhost: test\r\ncontent-length: 5\r\n\r\n")
        async with asyncio.timeout(10):
            assert (await reader.readuntil(b"\r\n\r\nno")).startswith(b"HTTP/1.1 413")
            writer.write(b"hello")
            assert await reader.read() == b""
        writer.close()


LINE = b"x-padding: %b\r\n" % (b"x" * 1000)


@pytest.mark.parametrize("lines", [LINE, b"x"], ids=["many", "one that does not end"])
async def test_a_head_without_end_is_refused_before_it_fills_the_memory(lines: bytes) -> None:
    heads: list[Head] = []
    async with serving(heads, echo) as server:
        reader, writer = await connection(server)
        writer.write(b"GET / HTTP/1.1\r\nhost: test\r\n")
        with suppress(ConnectionError):  # it closes while more is sent
            for _ in range(MAX_HEAD_BYTES // len(lines) + 1):
                writer.write(lines)
            await writer.drain()
        assert (await reader.read()).startswith(b"HTTP/1.1 431 ")
        writer.close()
    assert heads == [], "it was no request"


async def test_a_large_head_that_ends_is_served() -> None:
    heads: list[Head] = []
    async with serving(heads, echo) as server:
        reader, writer = await connection(server)
        for _ in range(2):  # on the same connection: each counts by itself
            writer.write(b"GET / HTTP/1.1\r\nhost: test\r\n" + LINE * (MAX_HEAD_BYTES // len(LINE) - 1))
            await writer.drain()
            writer.write(b"\r\n")
            assert (await reader.readuntil(b"GET / \n")).startswith(b"HTTP/1.1 200 ")
        writer.close()


async def test_a_body_may_be_larger_than_a_head_but_not_what_follows_it() -> None:
    heads: list[Head] = []
    piece = b"%x\r\n%b\r\n" % (1000, b"y" * 1000)
    async with serving(heads, echo) as server:
        reader, writer = await connection(server)
        writer.write(b"POST / HTTP/1.1\r\nhost: test\r\ntransfer-encoding: chunked\r\n\r\n")
        for _ in range(2 * MAX_HEAD_BYTES // 1000):
            writer.write(piece)
        await writer.drain()
        writer.write(b"0\r\nx-trailer: yes\r\n\r\n")
        assert b"HTTP/1.1 200 " in await reader.readline()
        writer.close()
        reader, writer = await connection(server)
        writer.write(b"POST / HTTP/1.1\r\nhost: test\r\ntransfer-encoding: chunked\r\n\r\n" + piece + b"0\r\n")
        with suppress(ConnectionError):
            for _ in range(8 * MAX_HEAD_BYTES // len(LINE)):
                writer.write(LINE)
                await writer.drain()
        with suppress(ConnectionError):
            assert await reader.read() == b"", "closed, and not answered: its request had begun"
        writer.close()
    assert [head.status for head in heads] == [200, 500], "the app learnt that its client was gone"
