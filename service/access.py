"""Access: the service behind the app, and who may use it. Dependencies, so that they run before a body is read."""

from __future__ import annotations

import hmac
from typing import Annotated

from fastapi import Depends, Request
from fastapi.datastructures import Headers
from fastapi.security import APIKeyHeader, HTTPBearer

from service.errors import UnauthorizedError
from service.lifecycle import Service

__all__ = ["SECURITY", "Authorized", "authorize", "check_key", "service_of"]

_bearer = HTTPBearer(auto_error=False, description="One of the service's API keys, where it asks for them.")
_api_key = APIKeyHeader(name="X-API-Key", auto_error=False, description="The same key in a header of its own.")


SECURITY: list[dict[str, list[str]]] = [{"HTTPBearer": []}, {"APIKeyHeader": []}]
"""The two ways to show a key, for the documentation of operations that call `check_key` by themselves."""


def check_key(headers: Headers, service: Service) -> None:
    """Refuse a request without a key, or with a wrong one.

    Raises:
        UnauthorizedError: the service has keys, and the headers show none of them.
    """
    if not (keys := service.settings.api_keys):
        return
    scheme, _, credentials = headers.get("authorization", "").partition(" ")
    shown = [headers.get("x-api-key", ""), credentials if scheme.lower() == "bearer" else ""]
    # All are compared, each in constant time, so that an answer's timing tells nothing about any. A header's bytes were
    # taken for Latin-1; a client may have meant UTF-8.
    matches = [
        hmac.compare_digest(given.encode("latin-1"), meant)
        for given in shown
        for key in keys
        for meant in _encodings(key.get_secret_value())
    ]
    if not any(matches):
        raise UnauthorizedError("show an API key as Authorization: Bearer KEY or X-API-Key: KEY")


def _encodings(key: str) -> tuple[bytes, bytes]:
    return key.encode(), key.encode("latin-1", "backslashreplace")


# These two never wait, but FastAPI would send plain functions to its thread pool: two hops a request.
async def service_of(request: Request) -> Service:
    """The service behind the app."""
    service: Service = request.app.state.service
    return service


async def authorize(
    request: Request,
    service: Annotated[Service, Depends(service_of)],
    _documented: Annotated[object, Depends(_bearer)],
    _too: Annotated[object, Depends(_api_key)],
) -> Service:
    """The service, for a client that may use it.

    Raises:
        UnauthorizedError: as `check_key`.
    """
    check_key(request.headers, service)
    return service


Authorized = Annotated[Service, Depends(authorize)]
