"""Clients of a real server's streams."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import httpx
from httpx_sse import aconnect_sse

from tests.e2e.running import PATIENCE

__all__ = ["last_events", "leave_mid_stream"]


async def leave_mid_stream(url: str, photo: bytes, *, clients: int = 32) -> None:
    """Clients that go away after the first event; returns once the server has forgotten them all."""

    async def leave(client: httpx.AsyncClient) -> None:
        async with aconnect_sse(client, "POST", "/predict/stream", files={"file": photo}) as source:
            async for _ in source.aiter_sse():
                break

    async with httpx.AsyncClient(base_url=url, timeout=PATIENCE) as client:
        await asyncio.gather(*(leave(client) for _ in range(clients)))
        async with asyncio.timeout(PATIENCE):
            while "hne_inflight_requests 0.0" not in (await client.get("/metrics")).text:
                pass


async def last_events(
    url: str, photo: bytes, *, clients: int = 8, all_started: Callable[[], None]
) -> list[tuple[str, str]]:
    """The last event of several streams, and its stop reason; `all_started` is called once each of them has begun."""
    to_start = clients

    async def last_event(client: httpx.AsyncClient) -> tuple[str, str]:
        nonlocal to_start
        async with aconnect_sse(client, "POST", "/predict/stream", files={"file": photo}) as source:
            async for event in source.aiter_sse():
                if event.event == "start":
                    to_start -= 1
                    if not to_start:
                        all_started()
                last = event
        return last.event, last.json()["stop_reason"]

    async with httpx.AsyncClient(base_url=url, timeout=PATIENCE) as client:
        return await asyncio.gather(*(last_event(client) for _ in range(clients)))
