"""Dialects: how a server wants to be asked, and what its answers mean. A benchmark of another server writes its own."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from math import isfinite
from typing import Protocol

__all__ = ["Ask", "Dialect", "Predict", "PredictStream", "Prediction"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """One request, ready to be sent."""

    path: str
    """With its query."""
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Prediction:
    """What a body of status 200 says."""

    label: str
    ensemble_size: int = 1
    flops: int = 0
    cut: bool = False
    """The deadline ended it before it was as deep as it was to be."""


class Dialect(Protocol):
    """One way to talk to one server. Requests are made before a run and replies read after it, so it may take time."""

    @property
    def first_prediction(self) -> bytes | None:
        """Bytes that the first prediction of a streamed answer begins with; None if answers come whole."""
        ...

    def ask(self, image: bytes, deadline: float) -> Ask:
        """The request for an encoded image whose answer is due in so many seconds; infinity for no deadline."""
        ...

    def prediction(self, body: bytes) -> Prediction:
        """What a whole body of status 200 says. Raises ValueError or LookupError if it is no prediction."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Predict:
    """This service's `POST /predict`: the image as the body, the deadline in the query."""

    path: str = "/predict"
    media_type: str = "image/jpeg"
    options: str = ""
    """Further options of the query: `max_ensemble_size=4&top_k=1`."""
    first_prediction: bytes | None = None

    def ask(self, image: bytes, deadline: float) -> Ask:
        """See `Dialect`."""
        deadlines = [f"deadline_ms={1e3 * deadline:.3f}"] if isfinite(deadline) else []
        query = "&".join(deadlines + ([self.options] if self.options else []))
        path = f"{self.path}?{query}" if query else self.path
        return Ask(path=path, body=image, headers={"Content-Type": self.media_type})

    def prediction(self, body: bytes) -> Prediction:
        """See `Dialect`."""
        answer = json.loads(body)
        return Prediction(
            label=answer["predictions"][0]["label"],
            ensemble_size=answer["ensemble_size"],
            flops=answer["flops"],
            cut=answer["stop_reason"] == "deadline",
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class PredictStream(Predict):
    """This service's `POST /predict/stream`: the answer is in the event `done`."""

    path: str = "/predict/stream"
    first_prediction: bytes | None = b"event: prediction"

    def prediction(self, body: bytes) -> Prediction:
        """See `Dialect`."""
        event, _, data = body.rstrip().rpartition(b"\n\n")[2].rpartition(b"\ndata: ")
        if not event.startswith(b"event: done"):
            raise ValueError(f"the stream ends with {event!r}")
        return Predict.prediction(self, data)
