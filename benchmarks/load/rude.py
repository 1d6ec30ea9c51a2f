"""Rude clients: readers that stall, clients that leave in the middle of a stream, uploads that trickle in.

    await be_rude(url, images, report := RudeReport(), stop, each=2, seed=0)

Each sends one request after the other on connections of its own, written by hand: no library is that rude.
"""

from __future__ import annotations

import asyncio
import random
import socket
from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from urllib.parse import urlsplit

__all__ = ["RudeReport", "be_rude"]

STALL = 1.0
"""Seconds for which a reader reads nothing."""
TRICKLE = 0.05
"""Seconds between two bytes of an upload."""
UPLOAD_DEADLINE = 0.5
"""Seconds; by then the answer to an upload that trickles in is due, though it is not through."""
PATIENCE = 10.0
"""Seconds after which a missing end is a fault."""


@dataclass(slots=True, kw_only=True)
class RudeReport:
    """What became of them."""

    requests: Counter[str] = field(default_factory=Counter)
    """By kind; each is a request whose head was sent in full."""
    statuses: Counter[str] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)
    """What should not be: a request without its one end."""


async def be_rude(
    url: str, images: Sequence[tuple[str, bytes]], report: RudeReport, stop: Callable[[], bool], *, each: int, seed: int
) -> None:
    """Run `each` clients of every kind until `stop()`; each ends its request first."""
    address = urlsplit(url)
    assert address.hostname is not None
    assert address.port is not None
    kinds: dict[str, Callable[[_Connection, bytes], Awaitable[str]]] = {
        "stalled reader": _stall,
        "left mid-stream": _leave,
        "trickling upload": _trickle,
    }

    async def client(kind: str, number: int) -> None:
        draw = random.Random(f"{seed} {kind} {number}")
        while not stop():
            image = draw.choice(images)[1]
            connection = _Connection(address.hostname or "", address.port or 0)
            try:
                async with asyncio.timeout(PATIENCE):
                    await connection.open()
                    report.requests[kind] += 1
                    report.statuses[f"{kind}: {await kinds[kind](connection, image)}"] += 1
            except (OSError, TimeoutError, ValueError, asyncio.IncompleteReadError) as error:
                report.faults.append(f"{kind}: {error!r}")
            finally:
                connection.abort()
            await asyncio.sleep(draw.uniform(0, 0.1))

    async with asyncio.TaskGroup() as group:
        for kind in kinds:
            for number in range(each):
                group.create_task(client(kind, number))


class _Connection:
    """One connection with a small window."""

    def __init__(self, host: str, port: int) -> None:
        self._address = host, port
        self._socket = socket.socket()

    async def open(self) -> None:
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        self._socket.setblocking(False)
        await asyncio.get_running_loop().sock_connect(self._socket, self._address)
        self.reader, self.writer = await asyncio.open_connection(sock=self._socket, limit=2048)

    def head(self, path: str, length: int) -> None:
        """Send the head of a request that closes the connection."""
        self.writer.write(
            f"POST {path} HTTP/1.1\r\nHost: rude\r\nConnection: close\r\n"
            f"Content-Type: image/jpeg\r\nContent-Length: {length}\r\n\r\n".encode()
        )

    async def status(self) -> int:
        """Read the answer's head."""
        line = await self.reader.readline()
        if not line.startswith(b"HTTP/1.1 "):
            raise ValueError(f"no answer, but {line!r}")
        while (await self.reader.readline()).strip():
            pass
        return int(line.split()[1])

    def abort(self) -> None:
        """Be gone."""
        if hasattr(self, "writer"):
            self.writer.transport.abort()
        self._socket.close()


async def _stall(connection: _Connection, image: bytes) -> str:
    """Read the head of a stream, nothing for long, then the rest: it must hold exactly one end."""
    connection.head("/predict/stream?deadline_ms=2000", len(image))
    connection.writer.write(image)
    status = await connection.status()
    await asyncio.sleep(STALL)
    body = await connection.reader.read(-1)
    ends = body.count(b"event: done\n") + body.count(b"event: error\n")
    if status == 200 and ends != 1:
        raise ValueError(f"a stream with {ends} ends: {body[-200:]!r}")
    return str(status)


async def _leave(connection: _Connection, image: bytes) -> str:
    """Be gone when the first prediction is there."""
    connection.head("/predict/stream?deadline_ms=2000", len(image))
    connection.writer.write(image)
    status = await connection.status()
    if status == 200:
        while line := await connection.reader.readline():
            if line.startswith(b"event: ") and line != b"event: start\n":
                break
    return str(status)


async def _trickle(connection: _Connection, image: bytes) -> str:
    """Send a body byte by byte: the answer is due at the deadline, whether the upload is through or not."""
    connection.head(f"/predict?deadline_ms={1e3 * UPLOAD_DEADLINE:.0f}", len(image))
    answer = asyncio.create_task(connection.status())
    try:
        for index in range(len(image)):
            done, _ = await asyncio.wait([answer], timeout=TRICKLE)
            if done:
                break
            connection.writer.write(image[index : index + 1])
        return str(await answer)
    finally:
        answer.cancel()
