"""App: everything in one process. `create_app` is what tests, `hne-serve` and any ASGI server start from."""

from __future__ import annotations

import time
from collections.abc import Callable

from fastapi import FastAPI
from prometheus_client import CollectorRegistry

from model_core.package import Package
from service.engine import Engine
from service.front import create_front
from service.lifecycle import Service
from service.local import LocalEngine, RunnerFactory, build_engine, make_runner, process_registry
from service.metrics import Recorder
from service.policies import parse_policy
from service.settings import Settings

__all__ = ["create_app"]


def create_app(
    settings: Settings,
    *,
    registry: CollectorRegistry | None = None,
    runner_factory: RunnerFactory = make_runner,
    clock: Callable[[], float] = time.monotonic,
) -> FastAPI:
    """The app for one model, with its engine. The engine starts with the app's lifespan and drains at its end.

    Raises:
        PackageError, SettingsError: the model cannot be served.
    """
    package = Package.load(settings.package)
    parse_policy(settings.policy, package.manifest.table)  # what is wrong with it is said before an engine is measured
    recorder = Recorder(package, registry or process_registry())

    def build() -> Engine:
        return build_engine(package, settings, recorder, clock=clock, runner_factory=runner_factory)

    return create_front(Service(settings, package, LocalEngine(build, recorder, clock=clock)))
