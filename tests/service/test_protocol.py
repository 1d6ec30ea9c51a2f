"""When a request came is when the server read it, not when its task had its turn."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import uvicorn
from starlette.types import Receive, Scope, Send

from service.arrival import Arrival, Head
from service.protocol import server_config
from service.settings import Settings

pytestmark = pytest.mark.anyio

REQUEST = b"GET / HTTP/1.1\r\nhost: test\r\nconnection: close\r\n\r\n"
BUSY = 0.5
"""Seconds that a request keeps the event loop from all others."""
SETTINGS = Settings.model_validate({})


async def busy(scope: Scope, receive: Receive, send: Send) -> None:
    until = time.monotonic() + BUSY
    while time.monotonic() < until:
        pass
    await send({"type": "http.response.start", "status": 204, "headers": []})
    await send({"type": "http.response.body"})


@asynccontextmanager
async def serving(heads: list[Head]) -> AsyncIterator[uvicorn.Server]:
    """A server of `busy`, with the configuration of ours; the heads of its requests are added when they are over."""
    app = Arrival(busy, clock=time.monotonic, waited=lambda: 0.0, on_end=lambda path, head, seconds: heads.append(head))
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = uvicorn.Server(server_config(app, SETTINGS, lifespan="off"))
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
