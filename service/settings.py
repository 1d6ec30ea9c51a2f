"""Settings: the one definition behind `hne-serve`'s flags, the HNE_* environment names and their documentation.

A flag (`--max-batch 16`) goes before an environment name (`HNE_MAX_BATCH=16`), that before the default here.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, CliApp, NoDecode, SettingsConfigDict

from service.errors import SettingsError
from service.runners.names import Precision, RunnerName
from service.state import EngineSettings

__all__ = ["Settings", "load_settings", "shipped_model"]

SHIPPED_MODELS = Path(__file__).resolve().parents[1] / "deploy" / "models"
PREFIX = "HNE_"

_ENGINE = EngineSettings()

Milliseconds = Annotated[float, Field(gt=0, allow_inf_nan=False)]
Seconds = Annotated[float, Field(gt=0, le=86_400)]
Count = Annotated[int, Field(ge=1)]


class Settings(BaseSettings):
    """Serve a hierarchical neural ensemble: a prediction by the deadline, and a better one where there is time."""

    model_config = SettingsConfigDict(
        env_prefix=PREFIX,
        frozen=True,
        extra="forbid",
        cli_prog_name="hne-serve",
        cli_kebab_case=True,
        cli_show_env_vars=True,
        cli_hide_none_type=True,
        cli_avoid_json=True,
    )

    host: str = Field(  # an unset variable in somebody's script must not open the service
        "127.0.0.1", min_length=1, description="address to listen on"
    )
    port: int = Field(8000, ge=0, le=65535, description="TCP port; 0 takes a free one")
    model: Path | None = Field(
        None, description="folder of the model package; unset, the one package in the checkout's deploy/models"
    )
    runner: RunnerName = Field(
        "auto",
        description="what computes the steps: cuda (PyTorch), onnx-cuda or cpu (ONNX Runtime); "
        "auto is the first of these that works",
    )
    precision: Precision = Field("float32", description="what a GPU computes in")
    api_processes: int = Field(
        0,
        ge=0,
        description="processes for HTTP and images, in front of one for the engine; 0: everything in a single process",
    )
    threads: Count | None = Field(
        None,
        description="CPU threads that compute a step at most, where they are faster than one; unset, one per core, or "
        "as many as the container has time for",
    )
    decode_threads: Count = Field(2, description="threads that decode images, in each of the API processes")

    profile_seconds: Seconds = Field(
        _ENGINE.profile_seconds, description="time to measure the steps at start-up, seconds"
    )

    keep_profile: bool = Field(
        True, description="keep what was measured beside the package, where that can be written, for the next start"
    )

    max_active: Count = Field(_ENGINE.max_active, description="requests that hold activations at a time")
    max_waiting: Count = Field(
        _ENGINE.max_waiting, description="images that may wait for their first step; more get 503"
    )
    max_batch: Count = Field(_ENGINE.max_batch, description="requests that share a step at most")

    policy: str = Field(
        _ENGINE.policy,
        description="what decides which requests run next, and how deep; others than anytime are baselines",
    )

    default_deadline_ms: Milliseconds | None = Field(
        None, description="deadline of a request that names none, milliseconds; unset, the longest allowed"
    )
    max_deadline_ms: Milliseconds = Field(30_000, description="longest deadline a request can have, milliseconds")
    reply_ms: float = Field(
        1,
        ge=0,
        allow_inf_nan=False,
        description="kept back from every deadline so that the answer arrives in time, milliseconds, up to an eighth "
        "of it; beside it what answers are seen to take to leave, up to a quarter. From refinements four times as much "
        "is kept: they risk a whole answer for a fraction of a point",
    )
    max_body_bytes: Count = Field(10 * 2**20, description="largest request body, bytes")
    max_upload_bytes: Count = Field(
        256 * 2**20,
        description="bytes of all request bodies that are read or wait to be decoded, in each API process, small ones "
        "aside; more get 503",
    )
    max_pixels: Count = Field(
        50_000_000, description="largest image, pixels; big ones are decoded one at a time, in up to 16 bytes a pixel"
    )
    max_images: Count = Field(32, description="images in one request at most")

    api_keys: Annotated[tuple[SecretStr, ...], NoDecode] = Field(
        (), description="keys that clients must show, separated by commas; unset, anyone may ask (better not as a flag)"
    )
    drain_seconds: Seconds = Field(10, description="time to answer the active requests at shutdown, seconds")
    log_level: Literal["debug", "info", "warning", "error"] = Field(
        "warning", description="least severe messages to print; info adds one line per request"
    )

    @field_validator("api_keys", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        keys = [key for key in map(str.strip, value.split(",")) if key]
        if not keys:  # an unset variable in somebody's script must not open the service
            raise ValueError("holds no key; leave it unset to let anyone ask")
        return keys

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.default_deadline_ms is not None and self.default_deadline_ms > self.max_deadline_ms:
            raise ValueError("default_deadline_ms is longer than max_deadline_ms")
        if self.max_body_bytes > self.max_upload_bytes:
            raise ValueError(
                f"max_body_bytes ({self.max_body_bytes}) is more than max_upload_bytes ({self.max_upload_bytes}): so "
                "large a request would never be taken; lower the one or raise the other"
            )
        if self.max_images > self.max_waiting:
            raise ValueError(
                f"max_images ({self.max_images}) is more than max_waiting ({self.max_waiting}): a request of so many "
                "images would never be taken; lower max_images or raise max_waiting"
            )
        return self

    @property
    def package(self) -> Path:
        """The folder of the model package.

        Raises:
            SettingsError: none was named, and there is not exactly one in the checkout.
        """
        return self.model if self.model is not None else shipped_model()

    @property
    def engine(self) -> EngineSettings:
        """The engine's limits."""
        return EngineSettings(
            max_active=self.max_active,
            max_waiting=self.max_waiting,
            max_batch=self.max_batch,
            profile_seconds=self.profile_seconds,
            keep_profile=self.keep_profile,
            policy=self.policy,
        )


def load_settings(arguments: Sequence[str], environment: Mapping[str, str] = os.environ) -> Settings:
    """Settings from flags, environment and defaults. `--help` and unknown flags leave the process as usual.

    Raises:
        SettingsError: a value is wrong, or an HNE_* name looks like a mistyped setting.
    """
    known = {PREFIX + name.upper() for name in Settings.model_fields}
    for name in sorted(environment):
        if name.startswith(PREFIX) and name not in known and (near := get_close_matches(name, known, cutoff=0.85)):
            raise SettingsError(f"{name} is no setting; did you mean {near[0]}?")
    try:
        return CliApp.run(Settings, cli_args=list(arguments))
    except ValidationError as error:
        raise SettingsError("; ".join(map(_fault, error.errors()))) from error


def shipped_model(folder: Path = SHIPPED_MODELS) -> Path:
    """The one model package in a folder of packages.

    Raises:
        SettingsError: there is none, or there are several.
    """
    packages = sorted(path.parent for path in folder.glob("*/manifest.json"))
    if len(packages) != 1:
        found = f"{len(packages)} ({', '.join(path.name for path in packages)})" if packages else "none"
        raise SettingsError(f"which model? Name its package with --model FOLDER or HNE_MODEL; {folder} holds {found}")
    return packages[0]


def _fault(fault: Mapping[str, Any]) -> str:
    if not fault["loc"]:
        return str(fault["msg"])
    name = str(fault["loc"][0])
    return f"--{name.replace('_', '-')} or {PREFIX}{name.upper()}: {fault['msg']}"
