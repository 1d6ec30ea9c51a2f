"""Access: the service behind the app, and who may use it. Dependencies, so that they run before a body is read."""

from __future__ import annotations

import hmac
from typing import Annotated

from fastapi import Depends, Request
from fastapi.security import APIKeyHeader, HTTPAuthorizationCredentials, HTTPBearer

from service.errors import UnauthorizedError
from service.lifecycle import Service

__all__ = ["Authorized", "authorize", "service_of"]

_bearer = HTTPBearer(auto_error=False, description="One of the service's API keys, where it asks for them.")
_api_key = APIKeyHeader(name="X-API-Key", auto_error=False, description="The same key in a header of its own.")


# These two never wait, but FastAPI would send plain functions to its thread pool: two hops a request.
async def service_of(request: Request) -> Service:
    """The service behind the app."""
    service: Service = request.app.state.service
    return service


async def authorize(
    service: Annotated[Service, Depends(service_of)],
    bearer: Annotated[HTTPAuthorizationCredentials | None, Depends(_bearer)],
    api_key: Annotated[str | None, Depends(_api_key)],
) -> Service:
    """The service, for a client that may use it.

    Raises:
        UnauthorizedError: the service has keys, and the request has none of them.
    """
    given = bearer.credentials if bearer else api_key or ""
    keys = service.settings.api_keys
    # Every key is compared, each in constant time, so that an answer's timing tells nothing about any.
    matches = [hmac.compare_digest(given.encode(), key.get_secret_value().encode()) for key in keys]
    if keys and not any(matches):
        raise UnauthorizedError("show an API key as Authorization: Bearer KEY or X-API-Key: KEY")
    return service


Authorized = Annotated[Service, Depends(authorize)]
