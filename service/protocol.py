"""Protocol: how uvicorn serves an app of ours, and its HTTP/1.1, which takes down when the head of a request was read.

The app sees a request only when its task has its turn on the event loop: measured under load, a fifth to a third of a
millisecond later in the median and a whole one in one of a hundred. Deadlines count from when it was read.

A head, or what follows a body's last chunk, may have `MAX_HEAD_BYTES`; uvicorn keeps all of it, however much comes.

An offer to go on in another protocol (h2c, from Java's client and `curl --http2`) is not taken up, and the request is
served as any other. httptools by itself takes what follows such a head, the request's body, for the other protocol.
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import httptools
from uvicorn import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from service.arrival import ENDS, FLOW, READ_AT
from service.settings import Settings

if TYPE_CHECKING:
    from uvicorn._types import ASGI3Application

__all__ = ["StampingProtocol", "server_config"]


KEEP_ALIVE_SECONDS = 75
"""For which a connection is kept after an answer: longer than proxies keep theirs, which would send the next request
just as it is closed."""
IDLE_SECONDS = 5
"""For which nothing may come of a first request, of the rest of a head, or after what is left of a body."""
UNREAD_SECONDS = 0.2
"""For which a server that ends waits for the first request of a connection that has had none."""
MAX_HEAD_BYTES = 64 * 2**10
"""As other servers take: 8 to 64 KiB. What comes together with the end of a head is not counted."""


class StampingProtocol(HttpToolsProtocol):
    """Leaves the instant (monotonic seconds) in the state of a request's scope, and whether its client reads."""

    _running: RequestResponseCycle | None = None
    """The request that was begun last. uvicorn itself knows the one that was read last, which may wait for others."""
    _pending_bytes = 0
    """That came since the last head or piece of a body was complete."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """See `asyncio.Protocol`."""
        super().connection_made(transport)
        self._close_if_idle()

    def connection_lost(self, exc: Exception | None) -> None:
        """See `asyncio.Protocol`."""
        if self._running is not None:
            self._running.disconnected = True
            self._running.message_event.set()
        super().connection_lost(exc)

    def shutdown(self) -> None:
        """The server ends, and tells each of its connections. Who is not answered when its time to drain is over is cut
        off, so the app is to answer them before."""
        if (ends := self.app_state.get(ENDS)) is not None:
            ends()
        if self._running is None:  # what its client has sent may be on its way
            self.loop.call_later(UNREAD_SECONDS, super().shutdown)
        else:
            super().shutdown()

    def data_received(self, data: bytes) -> None:
        """See `asyncio.Protocol`."""
        self._unset_keepalive_if_required()
        self._pending_bytes += len(data)
        try:
            self._parse(memoryview(data))
        except (httptools.HttpParserError, httptools.HttpParserUpgrade):  # the latter is left of a CONNECT
            self.logger.warning(fault := "Invalid HTTP request received.")
            self.send_400_response(fault)
            return
        if self._pending_bytes > MAX_HEAD_BYTES:
            self._refuse_head()
            return
        if self._running is None or self._running.response_complete:  # half a head, or a body after its answer
            self._close_if_idle()

    def on_headers_complete(self) -> None:
        """See `httptools.HttpRequestParser`."""
        if self.parser.should_upgrade():
            return
        self._pending_bytes = 0
        self.scope["state"] |= {READ_AT: time.monotonic(), FLOW: self.flow}
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """See `httptools.HttpRequestParser`."""
        self._pending_bytes = 0
        super().on_body(body)

    def on_message_complete(self) -> None:
        """See `httptools.HttpRequestParser`."""
        if not self.parser.should_upgrade():
            self._pending_bytes = 0
            super().on_message_complete()

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        self._running = cycle
        super()._start_asgi_task(cycle, app)

    def _close_if_idle(self) -> None:
        """Soon, unless something comes. uvicorn itself sees to that only when an answer ends, up to the next byte."""
        self.timeout_keep_alive_task = self.loop.call_later(IDLE_SECONDS, self.timeout_keep_alive_handler)

    def _refuse_head(self) -> None:
        """Answer that the head is too large, unless another answer is on its way, and close."""
        self.logger.warning("a request's head has more than %d bytes", MAX_HEAD_BYTES)
        if self._running is None or self._running.response_complete:
            fault = b"The head of the request is too large."
            lines = [
                b"HTTP/1.1 431 Request Header Fields Too Large",
                b"content-type: text/plain; charset=utf-8",
                b"content-length: %d" % len(fault),
                b"connection: close",
            ]
            self.transport.write(b"\r\n".join([*lines, b"", fault]))
        self.transport.close()

    def _parse(self, data: memoryview) -> None:
        while True:
            try:
                self.parser.feed_data(data)
                return
            except httptools.HttpParserUpgrade as offer:  # raised at the end of its head
                data = data[offer.args[0] :]
            head = self._head_without_offer()
            # A new one: after a head that also says `close`, or is HTTP/1.0, this one reads nothing more.
            self.parser = httptools.HttpRequestParser(self)
            self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as in uvicorn
            self.parser.feed_data(head)

    def _head_without_offer(self) -> bytes:
        """The head that was read last, as if no upgrade were offered."""
        version = self.parser.get_http_version().encode()
        lines = [b"%b %b HTTP/%b" % (self.parser.get_method(), self.url, version)]
        lines += [b"%b: %b" % (name, value) for name, value in self.headers if name != b"upgrade"]
        return b"\r\n".join([*lines, b"", b""])


def server_config(app: Callable[..., Any], settings: Settings, **more: Any) -> Config:
    """What both servers have in common."""
    return Config(
        app,
        http=StampingProtocol,
        ws="none",
        host=settings.host,
        port=settings.port,
        log_config=None,
        access_log=False,  # service.arrival has one line per request, with its id
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=math.ceil(settings.drain_seconds) + 1,  # by then the app has answered everyone
        **more,
    )
