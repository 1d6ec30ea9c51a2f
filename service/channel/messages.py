"""Messages: what API processes and the engine process say to each other.

A message is one or two ZeroMQ frames: a head, MessagePack of one of the structures below, and where it has one a body
that is never copied into a head: the image of a `Submit` as raw float32, the probabilities of a `News` as raw float32
(one row per refinement, in their order), the text of a `Figures`.

    API process                            engine process
    Hello                        ->
                                 <-        Welcome
    Ready                        ->
    Submit + image               ->
                                 <-        News + probabilities: all of one engine step; empty ones are heartbeats
    Notes                        ->        (what is cancelled, what is to be counted, how this side is doing)
    AskState, AskFigures         ->
                                 <-        State, Figures + text, or NoAnswer

`number` is the API process's own for a request or a question.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from service.client import Outcome
from service.errors import (
    BudgetError,
    DeadlineMissedError,
    DrainingError,
    QueueFullError,
    RunnerError,
    ServiceError,
    StartingError,
    UploadsFullError,
)
from service.request import Budget, StopReason
from service.state import EngineState, FrontState

__all__ = [
    "Answered",
    "AskFigures",
    "AskState",
    "Ended",
    "Event",
    "Failed",
    "Fault",
    "Figures",
    "Hello",
    "Missed",
    "News",
    "NoAnswer",
    "Notes",
    "Question",
    "Ready",
    "Refined",
    "State",
    "Submit",
    "Welcome",
    "decode_from_api",
    "decode_from_engine",
    "encode",
]


class _Message(msgspec.Struct, tag=True, array_like=True):
    """Small on the wire: its name and its fields in order."""


class _Part(msgspec.Struct, array_like=True):
    """The same within a message, where the kind is known."""


class Fault(_Part):
    """A `ServiceError`, to be raised again on the other side."""

    kind: str
    arguments: tuple[str | float, ...]

    @classmethod
    def of(cls, error: ServiceError) -> Fault:
        """The fault that an error is; one of no kind that is known here becomes a plain `ServiceError`."""
        kind = next(kind for kind in type(error).__mro__ if kind in _ARGUMENTS)
        return cls(kind.__name__, _ARGUMENTS[kind](error))

    @property
    def error(self) -> ServiceError:
        """The error."""
        return _KINDS[self.kind](*self.arguments)


_ARGUMENTS: Mapping[type, Callable[[Any], tuple[str | float, ...]]] = {
    BudgetError: lambda error: (str(error),),
    DeadlineMissedError: lambda error: (),
    DrainingError: lambda error: (),
    QueueFullError: lambda error: (error.retry_after,),
    RunnerError: lambda error: (str(error.path), error.fault),
    ServiceError: lambda error: (str(error),),
    StartingError: lambda error: (),
    UploadsFullError: lambda error: (error.retry_after,),
}
_KINDS: Mapping[str, Callable[..., ServiceError]] = {kind.__name__: kind for kind in _ARGUMENTS}


# From an API process


class Hello(_Message):
    """I am here."""


class Ready(_Message):
    """I have heard the welcome and take requests."""


class Submit(_Message):
    """A request; its image is the body."""

    number: int
    budget: Budget


class Rejected(_Message):
    """See `RequestRecorder.rejected`."""

    fault: Fault


class Answered(_Message):
    """See `RequestRecorder.answered`."""

    ensemble_size: int
    stop_reason: StopReason


class Missed(_Message):
    """See `RequestRecorder.deadline_missed`."""


class Ended(_Message):
    """See `RequestRecorder.request`."""

    endpoint: str
    outcome: Outcome
    seconds: float
    overrun: float | None


Event = Rejected | Answered | Missed | Ended
"""Something to be counted."""


class Notes(_Message):
    """What needs no answer, gathered for a while."""

    cancelled: list[int]
    events: list[Event]
    front: FrontState


class AskState(_Message):
    """What does the engine look like?"""

    number: int


class AskFigures(_Message):
    """What are the metrics?"""

    number: int
    accept: str


Question = AskState | AskFigures


# From the engine process


class Welcome(_Message):
    """The engine serves the package with this digest."""

    sha256: str


class Refined(_Part):
    """A `Refinement`; its probabilities are a row of the body."""

    number: int
    ensemble_size: int
    flops: int
    stop_reason: StopReason | None
    started_at: float
    first_at: float
    at: float
    ended_at: float | None


class Failed(_Part):
    """The end of a request that never got a leaf, or that the engine did not take."""

    number: int
    fault: Fault
    at: float


class News(_Message):
    """All that happened to an API process's requests since the last of these."""

    draining: bool
    admitted: list[int]
    refined: list[Refined]
    failed: list[Failed]


class State(_Message):
    """The answer to `AskState`."""

    number: int
    state: EngineState


class Figures(_Message):
    """The answer to `AskFigures`; the text is the body."""

    number: int
    content_type: str


class NoAnswer(_Message):
    """A question that the engine process could not answer; its log says why."""

    number: int


_from_api = msgspec.msgpack.Decoder(Hello | Ready | Submit | Notes | AskState | AskFigures)
_from_engine = msgspec.msgpack.Decoder(Welcome | News | State | Figures | NoAnswer)

encode = msgspec.msgpack.encode
decode_from_api = _from_api.decode
decode_from_engine = _from_engine.decode
