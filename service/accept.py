"""Accept: which form of an answer a client prefers, by its `Accept` headers: JSON, or a stream of events."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import Enum, auto

__all__ = ["EVENT_STREAM", "Form", "accepted_form"]

EVENT_STREAM = "text/event-stream"
JSON_RANGES = ("application/json", "application/*", "*/*")
"""What names JSON, the most specific first."""


class Form(Enum):
    """What an answer is to be."""

    JSON = auto()
    STREAM_OR_JSON = auto()
    """A stream where it can be one."""
    STREAM = auto()


def accepted_form(headers: Sequence[tuple[bytes, bytes]]) -> Form:
    """The form that the raw headers of a request ask for. Only who names event streams gets one."""
    for name, value in headers:
        if name == b"accept" and b"event-stream" in value.lower():
            return _preferred(b",".join(value for name, value in headers if name == b"accept").decode("latin-1"))
    return Form.JSON


def _preferred(accept: str) -> Form:
    """By weight, at equal weights by order; JSON has the weight of the most specific range that names it."""
    weights: dict[str, tuple[float, int]] = {}
    for place, item in enumerate(accept.lower().split(",")):
        kind, *parameters = (part.strip() for part in item.split(";"))
        weights.setdefault(kind, (_weight(parameters), -place))
    never = (0.0, 0)
    stream = weights.get(EVENT_STREAM, never)
    json = next((weights[kind] for kind in JSON_RANGES if kind in weights), never)
    if stream[0] <= 0 or json > stream:
        return Form.JSON
    return Form.STREAM_OR_JSON if json[0] > 0 else Form.STREAM


def _weight(parameters: Iterable[str]) -> float:
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            try:
                return float(value)
            except ValueError:  # as if it were not there: HTTP asks for no more than a best effort
                return 1.0
    return 1.0
