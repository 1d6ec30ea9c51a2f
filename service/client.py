"""The engine as the API side sees it, wherever it runs. Everything here belongs to one event loop.

`service.local.LocalEngine` has the engine in the same process; `service.channel.remote.RemoteEngine` talks to one in
a process of its own. Delivery, lifecycle and routes know this interface only, so that an API process never loads a
runner. It is not `service.engine.Engine` itself: that one answers from locks on any thread, while what lies in another
process can only be awaited, and has to be started, lost and asked.

Instants are `time.monotonic()`. On Linux and macOS that clock counts from the start of the machine, so all processes
read the same one and a deadline means the same instant in each.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from service.errors import ServiceError
from service.request import Budget, StopReason, Ticket, Update
from service.state import EngineState, FrontState

__all__ = ["Admitted", "EngineClient", "Exposition", "Heard", "Listener", "Outcome", "RequestRecorder", "Submitted"]


@dataclass(frozen=True, slots=True)
class Admitted:
    """The engine has taken the request. A failure that comes without it is a refusal."""


Heard = Admitted | Update
"""What is heard of a request: that it is admitted, then its updates."""

Listener = Callable[[Sequence[tuple[Ticket, Heard]]], None]
"""Hears everything of one engine step at once, on the event loop."""


class Submitted(NamedTuple):
    """A request that was handed over."""

    ticket: Ticket
    news: Sequence[Heard]
    """What is known of it already, which is not heard again."""


class Exposition(NamedTuple):
    """All metrics as text."""

    text: bytes
    content_type: str


Outcome = Literal["answered", "deadline_missed", "disconnected", "failed", "invalid", "rejected"]
"""What became of a request, as the metrics name it."""


class RequestRecorder(Protocol):
    """What the API side counts. The figures are kept where the engine is; see `service.metrics.Recorder`."""

    def watch_front(self, state: Callable[[], FrontState]) -> None:
        """Where to read how the API side is doing, whenever somebody wants to know."""

    def rejected(self, error: ServiceError) -> None:
        """A request was refused before any work was spent on it."""

    def answered(self, *, ensemble_size: int, stop_reason: StopReason) -> None:
        """A final refinement was handed out."""

    def deadline_missed(self) -> None:
        """A request's deadline came before its first leaf."""

    def request(self, *, endpoint: str, outcome: Outcome, seconds: float, overrun: float | None) -> None:
        """A request is over, `seconds` after its head arrived and `overrun` seconds (>= 0) after its answer was due;
        None if it got no answer.
        """


class EngineClient(Protocol):
    """One engine, from the event loop that serves its clients."""

    clock: Callable[[], float]

    @property
    def failure(self) -> ServiceError | None:
        """Why it serves nobody and never will again."""

    @property
    def recorder(self) -> RequestRecorder:
        """Where the figures go."""

    def start(self) -> None:
        """Begin to serve beside the loop."""

    async def started(self) -> None:
        """Wait until it serves, or has failed."""

    def listen(self, listener: Listener) -> None:
        """Tell this listener all that is heard from now on."""

    def check_ready(self) -> None:
        """Whether it takes requests now.

        Raises:
            StartingError, DrainingError, ServiceError: it does not.
        """

    def submit(self, image: NDArray[np.float32], budget: Budget, *, within: float = 0.0) -> Submitted:
        """Hand over a normalised image (C, H, W), which must not change afterwards. It returns at once, or after the
        seconds `within` which a request that has the engine to itself may be computed on the spot.

        What the engine says to it is heard later, unless it is known already: `Admitted`, or the refusal as a failure.

        Raises:
            ServiceError: as that failure, where it is known already.
        """

    def cancel(self, ticket: Ticket) -> None:
        """Forget a request. Harmless after its end."""

    async def snapshot(self) -> EngineState:
        """Limits, load and profile.

        Raises:
            ServiceError: it does not serve.
        """

    async def exposition(self, accept: str) -> Exposition:
        """All metrics, in the format that an `Accept` header asks for.

        Raises:
            ServiceError: nobody can tell.
        """

    async def drain(self, timeout: float) -> None:
        """Take no new requests, and answer the active ones, after `timeout` seconds with what they have."""

    async def close(self) -> None:
        """The end."""
