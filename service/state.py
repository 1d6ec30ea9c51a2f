"""What an engine is set to, and what it and its API side look like from outside."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf
from typing import NamedTuple

from service.errors import SettingsError

__all__ = ["EngineSettings", "EngineState", "FrontState", "StepProfile"]


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineSettings:
    """Limits of one engine.

    Raises:
        SettingsError: a value is out of range.
    """

    max_active: int = 256
    """Slots: requests that hold activations at a time."""
    max_waiting: int = 512
    """Requests that may wait for their first step; more are refused."""
    max_batch: int = 32
    """Requests that share one step."""
    reference_deadline: float = 0.1
    """Seconds; the gauge of the allowed ensemble size tells how deep a new request would get in this time."""
    profile_seconds: float = 2.0
    """Seconds that may go into measuring the profile at start-up."""
    keep_profile: bool = False
    """Keep what is measured beside the package, and start from it the next time."""
    policy: str = "anytime"
    """What to run next; `service.policies.parse_policy` knows the names."""

    def __post_init__(self) -> None:
        for name in ("max_active", "max_waiting", "max_batch", "reference_deadline", "profile_seconds"):
            if getattr(self, name) <= 0:
                raise SettingsError(f"{name} must be positive, got {getattr(self, name)}")


@dataclass(frozen=True, slots=True, kw_only=True)
class StepProfile:
    """What the profile knows of the step that reaches `ensemble_size`: seconds by measured batch size."""

    ensemble_size: int
    expected: dict[int, float]
    quantile: dict[int, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineState:
    """A look at the engine from outside."""

    settings: EngineSettings
    runner: str
    """What computes the steps: `onnx-cpu`."""
    memory_bytes: int
    """What the slot pool reserves."""
    active: int
    """Requests that hold a slot."""
    admitted: int
    """Requests that are not answered yet."""
    waiting: int
    """Those of them that wait for their first step."""
    max_batch: int
    """Requests that share a step at most."""
    straggle: float
    """How many times its expected seconds a step rarely exceeds."""
    draining: bool
    ensemble_size_allowed: int
    """The ensemble size that a request arriving now would reach within the reference deadline, if everyone in the
    engine advanced together with it. N at idle on a machine fast enough for the deadline, 0 if not even one leaf."""
    latencies: tuple[float, ...]
    """Expected seconds of one request alone to the ensemble sizes 1..N, by the segments that take least."""
    profile: tuple[StepProfile, ...]


class FrontState(NamedTuple):
    """What one API process does to keep its answers in time."""

    lag: float = 0.0
    """Seconds that a request may lie unseen (`service.lag`)."""
    reserve: float = 0.0
    """Seconds before a deadline at which refinements end (`service.reserve`)."""
    bearable: float = inf
    """Requests per second above which urgent ones are not refined (`service.strain`)."""
    decoding: int = 0
    """Images that wait for a thread to be decoded (`service.lane`)."""
    upload_bytes: int = 0
    """Bytes of uploads that are held, small ones aside (`service.room`)."""
