"""The engine's threads stand back for all others of the process."""

import os
import sys
import threading
from pathlib import Path
from time import monotonic

import pytest
from prometheus_client import CollectorRegistry

from model_core.package import Package
from service.local import build_engine, make_runner
from service.metrics import Recorder
from service.niceness import NICENESS, made_nice, stand_back
from service.runners import Runner
from service.settings import Settings

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux has nice threads")


def niceness() -> int:
    return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())


def test_a_thread_that_stands_back_is_nicer_than_the_others_and_so_are_those_that_it_starts() -> None:
    found: list[int] = []

    def stand_back_and_start() -> None:
        stand_back()
        found.append(niceness())
        inner = threading.Thread(target=lambda: found.append(niceness()))
        inner.start()
        inner.join()

    ordinary = niceness()
    thread = threading.Thread(target=stand_back_and_start)
    thread.start()
    thread.join()
    assert found == [ordinary + NICENESS] * 2
    assert niceness() == ordinary


def test_what_is_made_nice_is_what_was_made_or_the_reason_why_not() -> None:
    assert made_nice(niceness) == niceness() + NICENESS
    with pytest.raises(ZeroDivisionError):
        made_nice(lambda: 1 // 0)


def test_an_engine_computes_on_nice_threads(tiny_package: Path) -> None:
    made: list[int] = []

    def make(package: Package, settings: Settings) -> Runner:
        made.append(niceness())
        return make_runner(package, settings)

    package = Package.load(tiny_package)
    limits = {"threads": 1, "profile_seconds": 0.1, "keep_profile": False}
    settings = Settings.model_validate({"model": tiny_package, "runner": "cpu", **limits})
    recorder = Recorder(package, CollectorRegistry())
    engine = build_engine(package, settings, recorder, clock=monotonic, runner_factory=make)
    before = {thread.native_id for thread in threading.enumerate()}
    engine.start()
    try:
        (thread,) = {thread.native_id for thread in threading.enumerate()} - before
        assert thread is not None
        until = monotonic() + 10
        while os.getpriority(os.PRIO_PROCESS, thread) == niceness() and monotonic() < until:
            pass  # it has only begun
        assert (os.getpriority(os.PRIO_PROCESS, thread), made) == (niceness() + NICENESS, [niceness() + NICENESS])
    finally:
        engine.close()
