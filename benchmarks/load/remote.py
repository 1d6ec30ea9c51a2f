"""Remote: the same measurements as `local`, on a server that runs. Which policy it has is its own setting."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from statistics import mean, median
from typing import Any

from benchmarks.client import Client
from benchmarks.load.dialects import Dialect, Predict
from benchmarks.load.generator import closed_loop, offer
from benchmarks.load.outcomes import Outcome
from benchmarks.load.plan import Plan

__all__ = ["FULL", "Remote"]

FULL = Predict(options="top_k=1&min_confidence=1")
"""Asks for the full ensemble. Without a confidence, the service stops who is certain while others wait."""
CLIENTS = 64
"""Of the closed loop that measures capacity: enough for full batches beside those in transit."""


class Remote:
    """A running server, and encoded images with their class names to send."""

    def __init__(self, url: str, images: Sequence[tuple[str, bytes]], dialect: Dialect) -> None:
        self.images = len(images)
        with closing(Client(url)) as client:
            self.card: dict[str, Any] = client.model_card()
        self._url, self._images, self._dialect = url, images, dialect

    def capacity(self, seconds: float) -> float:
        """Full ensembles per second, in a closed loop of many clients."""
        return CLIENTS / mean(self._closed_loop(CLIENTS, seconds))

    def full_latency(self, seconds: float) -> float:
        """Seconds of the full ensemble for one client alone, seen from the client; the median."""
        return median(self._closed_loop(1, seconds))

    def offer(self, plan: Plan, policy: str, *, faults: float = 0.0, seed: Sequence[int] = (0,)) -> list[Outcome]:
        """Offer a plan. The server is taken to have the policy; faults cannot be injected from outside."""
        assert not faults
        return offer(self._url, plan, self._images, self._dialect)

    def _closed_loop(self, clients: int, seconds: float) -> list[float]:
        return closed_loop(self._url, self._images, FULL, clients=clients, seconds=seconds)
