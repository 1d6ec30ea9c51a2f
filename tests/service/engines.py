"""Engines for tests: the real tiny model and runner on a clock that moves only when told."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from prometheus_client import CollectorRegistry

from model_core.package import Package
from model_core.tree import Segment, Tree
from service.engine import Engine, EngineSettings
from service.metrics import Recorder
from service.profile import Profile, Shape
from service.request import Failure, Refinement, Ticket, Update
from service.runners.base import Array, Rows, Runner, batch_of
from service.runners.onnx import OnnxRunner
from service.scheduler import Policy

STEP = 0.001
"""Seconds that a step takes on the fake clock, per image and per block that it computes."""


class FakeClock:
    """Monotonic seconds that pass when told."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


class TimedRunner:
    """A real runner on a machine that takes exactly `STEP` per image and block; `before` may interfere."""

    def __init__(self, runner: Runner, tree: Tree, clock: FakeClock) -> None:
        self.name = runner.name
        self.configuration = runner.configuration
        self.segments: tuple[Segment, ...] = runner.segments
        self.max_batch = runner.max_batch
        self.pads = runner.pads
        self.keeping_costs = runner.keeping_costs
        self.before: Callable[[Segment], None] = lambda segment: None
        self.batches: list[tuple[int, int]] = []
        """The step and the batch size of every run."""
        self.until: list[int | None] = []
        """The ensemble size at which the last of each was to stop."""
        self._runner, self._tree, self._clock = runner, tree, clock

    def reserve(self, slots: int) -> int:
        return self._runner.reserve(slots)

    def run(self, segment: Segment, rows: Rows, images: Array | None = None, *, until: int | None = None) -> Array:
        self.before(segment)
        self.batches.append((segment.start, batch_of(rows)))
        self.until.append(until)
        self._clock.now += seconds(self._tree, segment, batch_of(rows))
        return self._runner.run(segment, rows, images, until=until)

    def close(self) -> None:
        self._runner.close()


def seconds(tree: Tree, segment: Segment, batch: int) -> float:
    """What `TimedRunner` takes."""
    return STEP * batch * (tree.blocks - tree.entry_block(segment.start))


def exact_profile(tree: Tree, max_batch: int) -> Profile:
    """The profile of `TimedRunner`."""
    timings = {
        Shape(tree.entry_block(leaf), 1): {batch: [seconds(tree, Segment(leaf), batch)] for batch in (1, max_batch)}
        for leaf in range(tree.leaves)
    }
    return Profile(tree, timings, max_batch=max_batch)


class Bench:
    """An engine stepped by hand, and what its requests heard."""

    def __init__(self, package: Package, runner: OnnxRunner, *, policy: Policy | None = None, **limits: Any) -> None:
        self.package = package
        self.tree = package.manifest.spec.tree
        self.clock = FakeClock()
        self.runner = TimedRunner(runner, self.tree, self.clock)
        settings = EngineSettings(**limits)
        self.registry = CollectorRegistry()
        self.engine = Engine(
            package,
            self.runner,
            settings=settings,
            recorder=Recorder(package, self.registry),
            clock=self.clock,
            profile=exact_profile(self.tree, settings.max_batch),
            policy=policy,
        )
        self.calls = 0
        self.heard: dict[Ticket, list[Update]] = {}

    def listen(self, updates: Sequence[tuple[Ticket, Update]]) -> None:
        self.calls += 1
        for ticket, update in updates:
            self.heard.setdefault(ticket, []).append(update)

    def run(self) -> None:
        """Step until nothing is left to do."""
        while self.engine.step():
            pass

    def refinements(self, ticket: Ticket) -> list[Refinement]:
        """A request's refinements; it must not have failed."""
        heard = self.heard[ticket]
        assert all(isinstance(update, Refinement) for update in heard), heard
        return [update for update in heard if isinstance(update, Refinement)]

    def last(self, ticket: Ticket) -> Refinement:
        return self.refinements(ticket)[-1]

    def failure(self, ticket: Ticket) -> Failure:
        (update,) = self.heard[ticket]
        assert isinstance(update, Failure)
        return update

    def metric(self, name: str, **labels: str) -> float:
        value = self.registry.get_sample_value(name, labels)
        assert value is not None, f"there is no metric {name} {labels}"
        return value


MakeBench = Callable[..., Bench]
"""Makes a bench on the tiny package; takes the engine's limits and a policy."""


def images(count: int, seed: int = 0) -> Array:
    """Normalised images (count, 3, 32, 32)."""
    return np.random.default_rng(seed).standard_normal((count, 3, 32, 32), np.float32)
