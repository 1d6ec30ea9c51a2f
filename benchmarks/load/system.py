"""The system under load, as a benchmark sees it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from benchmarks.load.outcomes import Outcome
from benchmarks.load.plan import Plan

__all__ = ["System"]


class System(Protocol):
    """`local.Local`, an engine in this process, or `remote.Remote`, a server that runs."""

    @property
    def card(self) -> dict[str, Any]:
        """Name, version, digest and runner of the model."""
        ...

    @property
    def images(self) -> int:
        """How many there are to be sent."""
        ...

    def capacity(self, seconds: float) -> float:
        """Full ensembles per second at saturation."""
        ...

    def full_latency(self, seconds: float) -> float:
        """Seconds of the full ensemble for one request alone; the median."""
        ...

    def offer(self, plan: Plan, policy: str, *, faults: float = 0.0, seed: Sequence[int] = (0,)) -> list[Outcome]:
        """Offer a plan under a policy, while this share of the steps is slowed."""
        ...
