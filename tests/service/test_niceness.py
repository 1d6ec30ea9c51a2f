"""What computes on the CPU stands back for all other threads of the process."""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path
from time import monotonic

import pytest
from prometheus_client import CollectorRegistry

from model_core.package import Package
from service.local import build_engine
from service.metrics import Recorder
from service.niceness import NICENESS, made_nice, stand_back
from service.runners.onnx import OnnxRunner
from service.settings import Settings

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has nice threads")

THREADS = Path("/proc/self/task")


def niceness(thread: int | None = None) -> int:
    return os.getpriority(os.PRIO_PROCESS, threading.get_native_id() if thread is None else thread)


def nicer() -> int:
    return min(niceness() + NICENESS, 19)


def threads() -> set[int]:
    return {int(path.name) for path in THREADS.iterdir()}


def test_a_thread_that_stands_back_is_nicer_than_the_others_and_so_are_those_that_it_starts() -> None:
    found: list[int] = []

    def stand_back_and_start() -> None:
        stand_back()
        found.append(niceness())
        inner = threading.Thread(target=lambda: found.append(niceness()))
        inner.start()
        inner.join()

    before = niceness()
    thread = threading.Thread(target=stand_back_and_start)
    thread.start()
    thread.join()
    assert found == [nicer()] * 2
    assert niceness() == before


def test_what_is_made_nice_is_what_was_made_or_the_reason_why_not() -> None:
    assert made_nice(niceness) == nicer()
    with pytest.raises(ZeroDivisionError):
        made_nice(lambda: 1 // 0)


def test_an_engine_computes_on_nice_threads(tiny_package: Path) -> None:
    package = Package.load(tiny_package)
    settings = Settings.model_validate({"model": tiny_package, "profile_seconds": 0.1, "keep_profile": False})
    before = threads()
    engine = build_engine(
        package,
        settings,
        Recorder(package, CollectorRegistry()),
        clock=monotonic,
        runner_factory=lambda package, _: OnnxRunner(package, threads=2),
    )
    pools = threads() - before
    assert pools, "ONNX Runtime has threads of its own"
    assert {niceness(thread) for thread in pools} == {nicer()}
    engine.start()
    try:
        (thread,) = threads() - before - pools
        until = monotonic() + 10
        while niceness(thread) != nicer() and monotonic() < until:
            pass  # it has only begun
        assert niceness(thread) == nicer()
    finally:
        engine.close()
