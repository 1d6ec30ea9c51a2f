"""Local: what a benchmark in this process measures. Every run has a new engine that begins with the same profile."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from copy import deepcopy
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Any

from prometheus_client import CollectorRegistry

from benchmarks.load.borrowed import Borrowed
from benchmarks.load.faults import Stragglers
from benchmarks.load.inprocess import closed_loop, offer_to
from benchmarks.load.outcomes import Outcome
from benchmarks.load.plan import Plan
from model_core.package import Package
from service.engine import Engine
from service.images import Decoder
from service.local import make_runner
from service.metrics import Recorder
from service.policies import parse_policy
from service.profile import Profile
from service.runners import Array, Runner
from service.settings import Settings
from service.state import EngineSettings
from service.timings import measure

__all__ = ["Local"]


class Local:
    """A package on the runner that the service would take, and encoded images with their class names to send.

    Raises:
        ServiceError, ModelError: the package cannot be served.
    """

    def __init__(
        self,
        model: Path | None,
        images: Sequence[tuple[str, bytes]],
        *,
        limits: EngineSettings,
        threads: int | None = None,
        runner: str = "auto",
    ) -> None:
        settings = Settings.model_validate(
            {"model": model, "threads": threads, "runner": runner, "max_batch": limits.max_batch}
        )
        self.package = Package.load(settings.package)
        self.manifest = self.package.manifest
        self.tree = self.manifest.spec.tree
        self.limits = limits
        self.images = len(images)
        self.runner = Borrowed(make_runner(self.package, settings), limits.max_active)
        self.max_batch = min(limits.max_batch, self.runner.max_batch or limits.max_batch)
        timings = measure(
            self.package,
            self.runner,
            max_batch=min(self.max_batch, limits.max_active),
            clock=time.monotonic,
            seconds=limits.profile_seconds,
        )
        self.profile = Profile(self.tree, timings, max_batch=self.max_batch, pads=self.runner.pads)
        self._images = _normalised(self.package, settings, images)

    @property
    def card(self) -> dict[str, Any]:
        """What a report says of the model."""
        names = {"name": self.manifest.name, "version": self.manifest.version, "sha256": self.package.sha256}
        return {**names, "runner": f"{self.runner.name}, in the benchmark's process"}

    @property
    def pixels(self) -> list[Array]:
        """The images as the network takes them."""
        return [image for _, image in self._images]

    @property
    def labels(self) -> list[str]:
        """Their class names."""
        return [label for label, _ in self._images]

    def capacity(self, seconds: float) -> float:
        """Full ensembles per second, in a closed loop, in batches of the size that the profile finds best."""
        with self.engine(f"fixed:{self.tree.leaves}") as engine:
            ends = closed_loop(engine, self.pixels, 4 * self.max_batch, seconds)
        return sum(end > ends[0] for end in ends) / (ends[-1] - ends[0])

    def full_latency(self, seconds: float) -> float:
        """Seconds of the full ensemble for one request alone; the median."""
        with self.engine(f"fixed:{self.tree.leaves}") as engine:
            ends = closed_loop(engine, self.pixels, 1, seconds)
        return median(later - earlier for earlier, later in pairwise(ends))

    def offer(self, plan: Plan, policy: str, *, faults: float = 0.0, seed: Sequence[int] = (0,)) -> list[Outcome]:
        """Offer a plan under a policy; `faults` is the share of the steps that are slowed, drawn from `seed`."""
        with self.engine(policy, Stragglers(self.runner, share=faults, seed=seed)) as engine:
            return offer_to(engine, plan, self._images, self.manifest.class_names)

    @contextmanager
    def engine(self, policy: str, runner: Runner | None = None) -> Iterator[Engine]:
        """A new engine, started; `runner` may stand before this one's."""
        engine = Engine(
            self.package,
            runner or self.runner,
            settings=self.limits,
            recorder=Recorder(self.package, CollectorRegistry()),
            profile=deepcopy(self.profile),
            policy=parse_policy(policy, self.manifest.table),
        )
        engine.start()
        try:
            yield engine
        finally:
            engine.close()


def _normalised(package: Package, settings: Settings, images: Sequence[tuple[str, bytes]]) -> list[tuple[str, Array]]:
    spec = package.manifest.spec
    decoder = Decoder(
        package.manifest.preprocessing, spec.input_shape, max_pixels=settings.max_pixels, threads=1, max_waiting=1
    )
    try:
        return [(label, decoder.read(data)) for label, data in images]
    finally:
        decoder.close()
