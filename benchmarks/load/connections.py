"""Connections: HTTP/1.1 as cheap as Python has it, since the client shares the processor with what it measures.

    connections = Connections("http://127.0.0.1:8000", patience=10)     # on an event loop
    reply = await connections.exchange(request)

One request at a time on each connection; as many connections as there are requests without an answer. An answer tells
how long its body is, or comes in chunks: one that ends with the connection counts as broken.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Coroutine, Mapping
from typing import Any, NamedTuple, TypeVar, cast
from urllib.parse import urlsplit

import httptools
import uvloop

__all__ = ["Connections", "Reply", "Request", "on_fast_loop"]

T = TypeVar("T")

KEEP_ALIVE = 2.0
"""Seconds for which idle connections are used again: less than any server keeps them, so that none closes on us."""
FINAL = 200
"""The lowest status that ends a request."""


class Request(NamedTuple):
    """What is sent: two pieces, so that many requests can share a body."""

    head: bytes
    body: bytes

    @classmethod
    def post(cls, url: str, path: str, headers: Mapping[str, str], body: bytes) -> Request:
        """A POST of `body` to a path with its query."""
        fields = {"Host": urlsplit(url).netloc, "Content-Length": str(len(body)), **headers}
        lines = [f"POST {path} HTTP/1.1", *(f"{name}: {value}" for name, value in fields.items())]
        return cls("\r\n".join([*lines, "", ""]).encode("ascii"), body)


class Reply(NamedTuple):
    """What came back."""

    status: int
    body: bytes
    at: float
    """Instant of `time.perf_counter` at which its last byte was there."""


def on_fast_loop(main: Coroutine[Any, Any, T]) -> T:
    """As `asyncio.run`, on the loop that costs least."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        return runner.run(main)


class Connections:
    """Connections to one server, http://HOST:PORT. `patience` (seconds) is how long an answer is waited for.

    Raises:
        ValueError: another scheme, or a path.
    """

    def __init__(self, url: str, *, patience: float) -> None:
        address = urlsplit(url)
        if address.scheme != "http" or address.path.strip("/"):
            raise ValueError(f"the load goes to http://HOST:PORT, got {url}")
        self._host, self._port = address.hostname or "", address.port or 80
        self._patience = patience
        self._idle: list[_Connection] = []
        self._all: set[_Connection] = set()

    async def exchange(self, request: Request, on_body: Callable[[bytes], None] | None = None) -> Reply:
        """Send a request and wait for the whole answer; `on_body` hears each piece of its body as it comes.

        Raises:
            OSError: no connection, one that broke, or (TimeoutError) no answer in time.
        """
        async with asyncio.timeout(self._patience):
            connection = self._take() or await self._open()
            try:
                reply = await connection.exchange(request, on_body)
            except BaseException:
                connection.abort()
                raise
        if connection.reusable:
            self._idle.append(connection)
        else:
            connection.abort()
        return reply

    def close(self) -> None:
        """Break all of them."""
        for connection in list(self._all):
            connection.abort()

    def _take(self) -> _Connection | None:
        """The one that was used last, so that those that are not needed grow old."""
        oldest = time.perf_counter() - KEEP_ALIVE
        while self._idle:
            connection = self._idle.pop()
            if connection.reusable and connection.used_at > oldest:
                return connection
            connection.abort()
        return None

    async def _open(self) -> _Connection:
        _, connection = await asyncio.get_running_loop().create_connection(
            lambda: _Connection(self._all), self._host, self._port
        )
        return connection


class _Connection(asyncio.Protocol):
    """One connection; `everyone` holds it while it is open."""

    def __init__(self, everyone: set[_Connection]) -> None:
        self._everyone = everyone
        self._parser = httptools.HttpResponseParser(self)
        self._waiter: asyncio.Future[Reply] | None = None
        self._on_body: Callable[[bytes], None] | None = None
        self._body: list[bytes] = []
        self.reusable = True
        self.used_at = 0.0

    async def exchange(self, request: Request, on_body: Callable[[bytes], None] | None) -> Reply:
        """See `Connections.exchange`."""
        self._on_body, self._body = on_body, []
        self._waiter = asyncio.get_running_loop().create_future()
        self._transport.writelines(request)
        return await self._waiter

    def abort(self) -> None:
        """Break it."""
        self.reusable = False
        self._transport.abort()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See `asyncio.Protocol`, as those below."""
        self._transport = cast(asyncio.Transport, transport)
        self._everyone.add(self)

    def data_received(self, data: bytes) -> None:
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._fail(ConnectionError(f"the answer is no HTTP: {error}"))
            self.abort()

    def eof_received(self) -> None:
        self.reusable = False  # the transport closes itself

    def connection_lost(self, exc: Exception | None) -> None:
        self._everyone.discard(self)
        self.reusable = False
        self._fail(exc or ConnectionResetError("the server closed the connection"))

    def on_body(self, body: bytes) -> None:
        """See `httptools.HttpResponseParser`."""
        self._body.append(body)
        if self._on_body is not None:
            self._on_body(body)

    def on_message_complete(self) -> None:
        """See `httptools.HttpResponseParser`."""
        if (status := self._parser.get_status_code()) < FINAL:
            return  # the answer is still to come
        self.used_at = time.perf_counter()
        self.reusable = self.reusable and self._parser.should_keep_alive()
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(Reply(status, b"".join(self._body), self.used_at))

    def _fail(self, error: Exception) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_exception(error)
