"""Schemas: what clients send and receive, as the API's documentation shows it.

Field names and units are those of the engine: FLOPs are multiply-adds for one image, accuracy is a fraction.
"""

from __future__ import annotations

import base64
import binascii
from collections import ChainMap
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, EncodedBytes, EncoderProtocol, Field
from pydantic_core import PydanticCustomError

from model_core.package import EnsembleFigures
from service.errors import InvalidError
from service.request import StopReason

__all__ = [
    "OPTION_FIELDS",
    "Answer",
    "JsonBody",
    "Limits",
    "ModelCard",
    "ModelList",
    "Options",
    "Prediction",
    "SizeFigures",
    "StepTimes",
    "StreamStart",
]


MOST = 2**63 - 1
"""As much as fits into a message to the engine process."""


class Options(BaseModel):
    """What a request may spend and what it wants back: the same names in the query, in a form and in JSON."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    deadline_ms: float | None = Field(
        default=None,
        gt=0,
        allow_inf_nan=False,
        description="Answer within this many milliseconds of the arrival of the request's head. The server has a cap; "
        "with the header X-Request-Timeout-Ms the shorter one counts.",
        examples=[50],
    )
    max_flops: int | None = Field(
        default=None, gt=0, le=MOST, description="Multiply-adds to spend on an image at most."
    )
    max_ensemble_size: int | None = Field(default=None, ge=1, le=MOST, description="Networks to average at most.")
    min_confidence: float | None = Field(
        default=None,
        gt=0,
        le=1,
        description="Stop as soon as the most probable class has this calibrated probability; 1 asks for everything. "
        "Unless given, 0.9 is enough while others wait.",
    )
    priority: Literal["high", "normal", "low"] | None = Field(
        default=None, description="Who is served first when there is not enough for all; normal unless given."
    )
    every_size: bool | None = Field(
        default=None,
        description="Refine by one network at a time, though several at once may be faster; unless given, a stream "
        "does and a single answer does not.",
    )
    top_k: int | None = Field(
        default=None, ge=1, description="Classes in the answer; 5 (or all, if fewer) unless given."
    )
    model: str | None = Field(default=None, description="Refuse to be answered by any other model than this one.")

    def merged(self, other: Options) -> Options:
        """Both together.

        Raises:
            InvalidError: an option is given in both.
        """
        if twice := sorted(self.model_fields_set & other.model_fields_set & set(Options.model_fields)):
            raise InvalidError({f"body.{name}": "is given in the query too" for name in twice})
        names = set(Options.model_fields)
        given = (options.model_dump(include=names, exclude_unset=True) for options in (self, other))
        return Options.model_validate(dict(ChainMap(*given)))


def _field(schema: dict[str, Any]) -> dict[str, Any]:
    """Of a field that may be left out, where there is no null: in a query or a form."""
    given: dict[str, Any] = next(kind for kind in schema["anyOf"] if kind != {"type": "null"})
    return {name: value for name, value in schema.items() if name not in ("anyOf", "default")} | given


OPTION_FIELDS: dict[str, dict[str, Any]] = {
    name: _field(schema) for name, schema in Options.model_json_schema()["properties"].items()
}
"""The JSON schemas of the options in a query and in a form."""


class _Base64(EncoderProtocol):
    """Base64 (RFC 4648, section 4), in lines or in one. Pydantic's own passes over what is none."""

    @classmethod
    def decode(cls, data: bytes) -> bytes:
        """See `EncoderProtocol`."""
        if data[:5].lower() == b"data:":
            raise PydanticCustomError("base64", "is a data URL; send what follows its comma")
        try:
            return base64.b64decode(data.translate(None, b" \t\r\n"), validate=True)
        except binascii.Error as error:
            raise PydanticCustomError("base64", "is not base64: {fault}", {"fault": str(error)}) from error

    @classmethod
    def encode(cls, value: bytes) -> bytes:
        """See `EncoderProtocol`."""
        return base64.b64encode(value)

    @classmethod
    def get_json_format(cls) -> str:
        """See `EncoderProtocol`."""
        return "base64"


Base64Bytes = Annotated[bytes, EncodedBytes(encoder=_Base64)]


class JsonBody(Options):
    """One image or several, base64-encoded, with options."""

    image: Base64Bytes | None = Field(
        default=None, description="An encoded image (JPEG, PNG, WebP, GIF, BMP) in base64."
    )
    images: tuple[Base64Bytes, ...] | None = Field(
        default=None, min_length=1, description="Several; the answer is then a list in the same order."
    )


class Prediction(BaseModel):
    """One class and how probable it is."""

    label: str = Field(examples=["cat"])
    class_id: int = Field(examples=[3])
    probability: float = Field(description="Calibrated.", examples=[0.93])


class Answer(BaseModel):
    """The prediction of the first `ensemble_size` networks, and what it took."""

    predictions: list[Prediction] = Field(description="The most probable classes, best first.")
    ensemble_size: int = Field(description="Networks averaged.", examples=[12])
    max_ensemble_size: int = Field(description="Networks in the full ensemble.", examples=[16])
    stop_reason: StopReason | None = Field(description="Why it is not refined further; null while it is.")
    flops: int = Field(description="Multiply-adds spent on this image.", examples=[80_000_000])
    expected_accuracy: float = Field(description="Accuracy of this ensemble size on held-out data.", examples=[0.94])
    elapsed_ms: float = Field(description="Since the head of the request arrived.", examples=[21.4])
    queue_ms: float = Field(description="From admission to the start of the first step.", examples=[0.6])
    model: str = Field(examples=["hne_small"])
    request_id: str


class StreamStart(BaseModel):
    """The data of the event `start`."""

    model: str
    max_ensemble_size: int
    deadline_ms: float = Field(description="When the answer is due, after all limits, counted as `elapsed_ms`.")
    request_id: str


class SizeFigures(EnsembleFigures):
    """What an ensemble size costs, what it is worth, and how long it takes here."""

    expected_latency_ms: float = Field(description="Measured: one image alone, by the steps that take least.")


class StepTimes(BaseModel):
    """How long the step that reaches an ensemble size takes here, by batch size."""

    ensemble_size: int
    expected_ms: dict[int, float]
    quantile_ms: dict[int, float] = Field(description="Rarely exceeded.")


class Limits(BaseModel):
    """What the service takes at most."""

    max_active: int
    max_waiting: int
    max_batch: int
    default_deadline_ms: float | None
    max_deadline_ms: float
    max_body_bytes: int
    max_pixels: int
    max_images: int


class ModelCard(BaseModel):
    """A model that is served."""

    name: str
    version: str
    sha256: str = Field(description="Of the package's manifest, which names the digests of everything else.")
    architecture: str
    classes: int
    class_names: tuple[str, ...]
    input_shape: tuple[int, int, int] = Field(description="Channels, height, width.")
    runner: str
    policy: str = Field(description="What decides which requests are refined, and how far: HNE_POLICY.")
    limits: Limits
    evaluated_on: str
    table: list[SizeFigures]
    profile: list[StepTimes]


class ModelList(BaseModel):
    """The models that are served."""

    models: list[ModelCard]
