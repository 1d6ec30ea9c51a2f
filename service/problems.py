"""Problems: every error as RFC 9457 `application/problem+json`. One table maps the service's errors to statuses."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from http import HTTPStatus
from typing import Any, NamedTuple

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, ConfigDict, Field
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from service.arrival import REQUEST_ID, head_of
from service.errors import (
    BudgetError,
    DeadlineMissedError,
    DrainingError,
    EngineBusyError,
    EngineLostError,
    FormatError,
    InvalidError,
    MalformedError,
    QueueFullError,
    ServiceError,
    StartingError,
    TooLargeError,
    UnauthorizedError,
    UploadsFullError,
)
from service.schemas import Options

__all__ = [
    "CLIENT_LEFT",
    "MEDIA_TYPE",
    "Problem",
    "add_problem_handlers",
    "check_count",
    "faults_of",
    "problem_of",
    "problem_responses",
]

MEDIA_TYPE = "application/problem+json"
CLIENT_LEFT = 499
"""Status in log and metrics of a request whose client went away; nobody receives it."""
RETRY_AFTER = 5
"""Seconds to wait for a service that starts or shuts down: another replica, or this one, is up by then."""

logger = logging.getLogger(__name__)


class Problem(BaseModel):
    """What went wrong, and what to do about it."""

    model_config = ConfigDict(json_schema_extra={"title": "Problem"})

    type: str = Field(description="Which problem, as a URI to compare.", examples=["urn:hne:problem:queue-full"])
    title: str = Field(examples=["The queue is full"])
    status: int = Field(examples=[503])
    detail: str = Field(description="This occurrence.")
    request_id: str
    errors: dict[str, str] | None = Field(default=None, description="Each invalid field and what is wrong with it.")


class _Kind(NamedTuple):
    status: HTTPStatus
    name: str
    title: str


KINDS: dict[type[ServiceError], _Kind] = {
    MalformedError: _Kind(HTTPStatus.BAD_REQUEST, "malformed", "The body is malformed"),
    UnauthorizedError: _Kind(HTTPStatus.UNAUTHORIZED, "unauthorized", "A valid API key is needed"),
    TooLargeError: _Kind(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "too-large", "The image is too large"),
    FormatError: _Kind(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "unsupported-format", "The format is not supported"),
    InvalidError: _Kind(HTTPStatus.UNPROCESSABLE_ENTITY, "invalid", "The request is not valid"),
    BudgetError: _Kind(HTTPStatus.UNPROCESSABLE_ENTITY, "invalid-budget", "The budget allows no prediction"),
    UploadsFullError: _Kind(HTTPStatus.SERVICE_UNAVAILABLE, "uploads-full", "Too many uploads at once"),
    QueueFullError: _Kind(HTTPStatus.SERVICE_UNAVAILABLE, "queue-full", "The queue is full"),
    StartingError: _Kind(HTTPStatus.SERVICE_UNAVAILABLE, "starting", "The service is starting"),
    DrainingError: _Kind(HTTPStatus.SERVICE_UNAVAILABLE, "draining", "The service is shutting down"),
    EngineBusyError: _Kind(HTTPStatus.SERVICE_UNAVAILABLE, "engine-busy", "The engine is busy"),
    EngineLostError: _Kind(HTTPStatus.SERVICE_UNAVAILABLE, "engine-lost", "The engine has ended"),
    DeadlineMissedError: _Kind(HTTPStatus.GATEWAY_TIMEOUT, "deadline-missed", "No prediction in time"),
    ServiceError: _Kind(HTTPStatus.INTERNAL_SERVER_ERROR, "internal", "The service failed"),
}


def problem_of(error: Exception, request_id: str, *, first_seconds: float = 0.0) -> Problem:
    """The problem that an error is to a client. Faults of our own go to the log, under the request's id.

    `first_seconds` is when nine in ten of the last answers had their first leaf; 0 if that is not known.
    """
    status, name, title = next((KINDS[kind] for kind in type(error).__mro__ if kind in KINDS), KINDS[ServiceError])
    internal = status is HTTPStatus.INTERNAL_SERVER_ERROR
    if internal:
        logger.error("request_id=%s failed", request_id, exc_info=error)
    detail = "the fault is in the service's log under this request_id" if internal else str(error)
    if isinstance(error, DeadlineMissedError) and first_seconds:
        detail += f"; nine in ten of those answered lately had their first within {1e3 * first_seconds:.1f} ms"
    return Problem(
        type=f"urn:hne:problem:{name}",
        title=title,
        status=status,
        detail=detail,
        request_id=request_id,
        errors=error.faults if isinstance(error, InvalidError) else None,
    )


def check_count(given: Mapping[str, Any], form: type[BaseModel], where: str) -> None:
    """Make sure that no more fields are given than there are. Raises InvalidError."""
    if len(given) > len(form.model_fields):
        raise InvalidError({where: f"has {len(given)} fields; valid: {', '.join(form.model_fields)}"})


def faults_of(error: Any, where: str = "", form: type[BaseModel] = Options) -> dict[str, str]:
    """Pydantic's errors as field and fault; an unknown field is told those of `form`."""
    faults = {}
    for fault in error.errors():
        name = ".".join(str(part) for part in (where, *fault["loc"]) if part != "")
        unknown = fault["type"] == "extra_forbidden"
        faults[name or "body"] = f"is unknown; valid: {', '.join(form.model_fields)}" if unknown else fault["msg"]
    return faults


def problem_responses(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """The problems of an operation for its documentation."""
    described: dict[int | str, dict[str, Any]] = {}
    for status in statuses:
        titles = dict.fromkeys(kind.title for kind in KINDS.values() if kind.status == status)
        schema = {"$ref": "#/components/schemas/Problem"}
        described[status] = {"description": ". ".join(titles) + ".", "content": {MEDIA_TYPE: {"schema": schema}}}
    return described


def add_problem_handlers(app: FastAPI) -> None:
    """Make every error that leaves an operation, and every unmatched path or method, a problem."""
    app.add_exception_handler(ServiceError, _service_error)
    app.add_exception_handler(RequestValidationError, _invalid_query)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(ClientDisconnect, _client_left)
    app.add_exception_handler(Exception, _our_mistake)


async def _service_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ServiceError)
    problem = problem_of(error, head_of(request).request_id, first_seconds=request.app.state.service.firsts.value)
    headers = {}
    if isinstance(error, UnauthorizedError):
        headers["WWW-Authenticate"] = "Bearer"
    if isinstance(error, QueueFullError):
        headers["Retry-After"] = str(max(1, math.ceil(error.retry_after)))
    if isinstance(error, StartingError | DrainingError | EngineBusyError | EngineLostError):
        headers["Retry-After"] = str(RETRY_AFTER)
    if isinstance(error, DrainingError):
        headers["Connection"] = "close"  # which this process is about to do
    return _response(problem, headers)


async def _invalid_query(request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    return await _service_error(request, InvalidError(faults_of(error)))


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return _response(_plain(request, HTTPStatus(error.status_code), error.detail), error.headers)


async def _client_left(request: Request, error: Exception) -> Response:
    return Response(status_code=CLIENT_LEFT)


async def _our_mistake(request: Request, error: Exception) -> Response:
    request_id = head_of(request).request_id
    # Starlette answers these outside of `service.arrival`, which gives every other answer its id.
    return _response(problem_of(error, request_id), {REQUEST_ID: request_id})


def _plain(request: Request, status: HTTPStatus, detail: str) -> Problem:
    title = status.phrase
    request_id = head_of(request).request_id
    return Problem(type="about:blank", title=title, status=status, detail=detail, request_id=request_id)


def _response(problem: Problem, headers: Mapping[str, str] | None = None) -> Response:
    return Response(
        problem.model_dump_json(exclude_none=True),
        status_code=problem.status,
        media_type=MEDIA_TYPE,
        headers=headers,
    )
