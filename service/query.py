"""Query: what a prediction request says of its budget in its head, in the query and in a header."""

from __future__ import annotations

from collections import Counter
from functools import lru_cache
from typing import Annotated, Any

from pydantic import Field, TypeAdapter, ValidationError
from starlette.datastructures import QueryParams
from starlette.requests import Request

from service.errors import InvalidError
from service.problems import check_count, faults_of
from service.schemas import OPTION_FIELDS, Options

__all__ = ["PARAMETERS", "read_query"]

TIMEOUT_HEADER = "x-request-timeout-ms"
QUERIES = 256
"""Different queries whose options are remembered: a client asks the same way again and again."""

_milliseconds = TypeAdapter(Annotated[float, Field(gt=0, allow_inf_nan=False)])
_timeout_schema = _milliseconds.json_schema() | {"description": "As deadline_ms; the shorter one counts."}

PARAMETERS: list[dict[str, Any]] = [
    {"name": name, "in": where, "required": False, "schema": schema}
    for where, schemas in (
        ("query", OPTION_FIELDS),
        ("header", {TIMEOUT_HEADER: _timeout_schema}),
    )
    for name, schema in schemas.items()
]
"""What a prediction request takes beside its body, for the API's documentation."""


def read_query(request: Request) -> tuple[Options, float | None]:
    """The options in the query, and the milliseconds that the header allows, if it is there.

    Raises:
        InvalidError: unknown, invalid or given twice.
    """
    faults: dict[str, str] = {}
    options, longest = None, None
    try:
        options = _options(request.scope["query_string"])
    except ValidationError as error:
        faults = faults_of(error, "query")
    except InvalidError as error:
        faults = dict(error.faults)
    if (given := request.headers.get(TIMEOUT_HEADER)) is not None:
        try:
            longest = _milliseconds.validate_python(given)
        except ValidationError as error:
            faults |= faults_of(error, f"header.{TIMEOUT_HEADER}")
    if options is None or faults:
        raise InvalidError(faults)
    return options, longest


@lru_cache(maxsize=QUERIES)
def _options(query: bytes) -> Options:
    """The options of a query string. Raises ValidationError, InvalidError."""
    given = QueryParams(query).multi_items()
    times = Counter(name for name, _ in given)
    check_count(times, Options, "query")
    if len(times) < len(given):
        raise InvalidError({f"query.{name}": "is given twice" for name, count in times.items() if count > 1})
    return Options.model_validate(dict(given))
