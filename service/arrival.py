"""Arrival: the outermost layer of the app. It stamps a request when its head comes in, and accounts for it at its end.

Pure ASGI, so that it neither buffers a stream nor waits for the body: the deadline counts from this stamp.
"""

from __future__ import annotations

import logging
import re
import secrets
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from typing import Protocol

from starlette.datastructures import Headers
from starlette.requests import HTTPConnection
from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["ENDS", "FLOW", "READ_AT", "REQUEST_ID", "Arrival", "FlowControl", "Head", "head_of"]

READ_AT = "read_at"
"""In the state of a scope: the instant (monotonic seconds) at which the server read the head, if it tells."""
ENDS = "ends"
"""In the state of the app: what to call when the server begins to end, as often as it likes."""
FLOW = "flow"
"""In the state of a scope: the connection's `FlowControl`, if the server tells."""
REQUEST_ID = "X-Request-Id"
_ID_HEADER = REQUEST_ID.lower().encode()
SANE_ID = re.compile(r"[\w.:+/=-]{1,128}", re.ASCII)

PROCESS, _numbers = secrets.token_hex(8), count(1)
"""Together they make ids that are unique, for less than it costs to draw each at random."""

access_log = logging.getLogger("service.access")


class FlowControl(Protocol):
    """A connection, as uvicorn knows it."""

    @property
    def write_paused(self) -> bool:
        """Whether `send` waits for room in the client's socket."""


@dataclass(slots=True, kw_only=True)
class Head:
    """What is known of a request before its body, and how it ended."""

    arrived_at: float
    """Instant (monotonic seconds) at which the head was complete, as far as can be known."""
    seen_at: float
    """Instant at which the app saw it, however long it had been there."""
    request_id: str
    """The client's own if it is sane, else a new one."""
    due_at: float | None = None
    """Instant at which the answer is due, once the request has been read."""
    turn_at: float | None = None
    """Instant at which its images were taken up, once they are."""
    first_at: float | None = None
    """Instant of the first leaf of a single answer."""
    ended_at: float | None = None
    """Instant from which on a single answer had only to be sent, once that is known."""
    unread: float = 0.0
    """Seconds for which the answer could not be sent, since the client did not read, once it was fixed or due."""
    status: int | None = None
    """Of the answer; of the problem, where a stream ends in one; None where the client left before."""


def head_of(request: HTTPConnection) -> Head:
    """The stamp of a request."""
    head: Head = request.scope["state"]["head"]
    return head


class Arrival:
    """ASGI middleware: a `Head` for every request, `X-Request-Id` on every answer, one call to `on_end` each.

    `waited()` tells for how many seconds a request that is read now has been there. `on_end(path, head, seconds)` gets
    the matched route's path, "" if there is none.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        clock: Callable[[], float],
        waited: Callable[[], float],
        on_end: Callable[[str, Head, float], None],
    ) -> None:
        self.app = app
        self._clock = clock
        self._waited = waited
        self._on_end = on_end

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        now, state = self._clock(), scope.setdefault("state", {})
        head = Head(arrived_at=state.get(READ_AT, now) - self._waited(), seen_at=now, request_id=_request_id(scope))
        state["head"] = head
        flow: FlowControl | None = state.get(FLOW)

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                head.status = message["status"]
                message["headers"] = [*message.get("headers", ()), (_ID_HEADER, head.request_id.encode())]
            if flow is None or not flow.write_paused:
                await send(message)
                return
            before = self._clock()
            try:
                await send(message)  # waits until there is room in the client's socket
            finally:
                fixed_at = head.ended_at or head.due_at or before
                head.unread += max(0.0, self._clock() - max(before, fixed_at))

        try:
            await self.app(scope, receive, send_with_id)
        except Exception:
            head.status = 500
            raise
        finally:
            seconds = self._clock() - head.arrived_at
            route = getattr(scope.get("route"), "path", "")
            access_log.info(
                "method=%s path=%s status=%s duration_ms=%.1f request_id=%s",
                scope["method"],
                route or ("unmatched" if head.status == 404 else scope.get("raw_path", b"").decode("latin-1")),
                head.status,
                seconds * 1e3,
                head.request_id,
            )
            self._on_end(route, head, seconds)


def _request_id(scope: Scope) -> str:
    given = Headers(scope=scope).get(REQUEST_ID)
    return given if given is not None and SANE_ID.fullmatch(given) else f"{PROCESS}-{next(_numbers):x}"
