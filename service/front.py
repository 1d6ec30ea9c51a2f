"""Front: the app over an engine, wherever that one runs. It needs no runner, and an API process loads none."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from fastapi import FastAPI
from fastapi_offline import FastAPIOffline

from service.api import ROUTES
from service.arrival import ENDS, Arrival, Head
from service.client import Outcome
from service.lifecycle import Service
from service.problems import CLIENT_LEFT, add_problem_handlers

__all__ = ["create_front", "outcome_of"]

AMPLE = 2.0
"""Times what nine in ten of the last answers waited for their first leaf."""

WELCOME_SECONDS = 0.5
"""For which an app waits for its engine before the server lets anyone in, who then is told that it starts."""

DESCRIPTION = """
Classify images with a hierarchical neural ensemble, **within a budget that you name**: a deadline, a number of FLOPs,
an ensemble size, or a confidence that is enough. From its first network on a request holds an answer; whatever is left
of the budget makes it better.

    curl -F file=@cat.jpg 'localhost:8000/predict?deadline_ms=50'
    curl -N -F file=@cat.jpg 'localhost:8000/predict/stream'

Every error is `application/problem+json` and carries the `request_id` that the answer's `X-Request-Id` repeats.
"""


def create_front(service: Service) -> FastAPI:
    """The app for one model. The engine starts with the app's lifespan and drains at its end."""

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[dict[str, Callable[[], None]]]:
        draining: list[asyncio.Task[None]] = []

        def ends() -> None:
            if not draining:
                draining.append(asyncio.create_task(service.drain()))

        service.start()
        try:
            # An engine that is up says so at once: nobody who comes now is to be told that it starts.
            with suppress(TimeoutError):
                async with asyncio.timeout(WELCOME_SECONDS):
                    await service.started()
            yield {ENDS: ends}
        finally:
            await asyncio.gather(*draining)
            await service.close()

    # /docs comes with its scripts, so it works without the Internet. Not so /redoc, which fetches a logo.
    app = FastAPIOffline(
        title="HNE Serve",
        version=_version(),
        description=DESCRIPTION,
        lifespan=lifespan,
        routes=ROUTES,
        redoc_url=None,
    )
    app.state.service = service
    if not service.settings.api_keys:
        app.openapi = lambda: _without_keys(FastAPI.openapi(app))  # type: ignore[method-assign]
    add_problem_handlers(app)

    def on_end(path: str, head: Head, seconds: float) -> None:
        if path.startswith("/predict"):
            # A client that does not read is not waited for, and tells nothing of how fast this service replies.
            outcome, over_at = outcome_of(head.status), head.arrived_at + seconds - head.unread
            overrun = None if outcome != "answered" or head.due_at is None else max(0.0, over_at - head.due_at)
            service.recorder.request(endpoint=path, outcome=outcome, seconds=seconds, overrun=overrun)
            if head.first_at is not None and head.turn_at is not None:
                service.turns.observe(head.first_at - head.turn_at)
                service.firsts.add(head.first_at - head.arrived_at)
            answered_at = head.ended_at if outcome == "answered" else None
            service.reserve.ended(None if answered_at is None else over_at - answered_at)
            missed = outcome == "deadline_missed" or (answered_at is not None and bool(overrun))
            let_down = missed and (service.lag.seconds > 0 or _had_time(head, service))
            service.strain.ended(arrived_at=head.arrived_at, seen_at=head.seen_at, let_down=let_down)

    app.add_middleware(Arrival, clock=service.clock, waited=lambda: service.lag.seconds, on_end=on_end)
    return app


def _without_keys(document: dict[str, Any]) -> dict[str, Any]:
    """The API's documentation, where anyone may ask."""
    for operations in document["paths"].values():
        for operation in operations.values():
            operation.pop("security", None)
    return document


def _had_time(head: Head, service: Service) -> bool:
    """Whether a request that has been read was given twice what others usually wait for a first leaf. Of those who have
    less, and of uploads that take too long, a load that is too high is only the cause where the loop lags."""
    usual = service.firsts.value
    return head.due_at is not None and 0 < AMPLE * usual < head.due_at - head.arrived_at


def outcome_of(status: int | None) -> Outcome:
    """A status as one of few words for the metrics."""
    if status is None or status == CLIENT_LEFT:
        return "disconnected"
    exact: dict[int, Outcome] = {200: "answered", 503: "rejected", 504: "deadline_missed"}
    return exact.get(status, "invalid" if status < 500 else "failed")


def _version() -> str:
    try:
        return version("hne-serve")
    except PackageNotFoundError:  # run from a checkout that is not installed
        return "unknown"
