"""What the engine counts, and what it learns of its own steps."""

from __future__ import annotations

import threading
from collections.abc import Callable

import pytest
from prometheus_client import CollectorRegistry

from model_core.package import Package
from model_core.tree import Segment
from service.core import Core
from service.errors import RunnerError
from service.metrics import Recorder
from service.profile import Profile, shape_of
from service.request import Budget, StopReason
from service.runners.onnx import OnnxRunner
from service.scheduler import Decision, Situation
from service.state import EngineSettings
from tests.service.engines import Bench, FakeClock, MakeBench, images, seconds

PATIENCE = 30
"""Seconds for what takes milliseconds."""


def test_the_multiply_adds_computed_are_those_of_the_answers(bench: Bench) -> None:
    flops = bench.package.manifest.cumulative_flops
    for image, size in zip(images(3), (1, 5, 16), strict=True):
        bench.engine.submit(image, Budget(max_ensemble_size=size), bench.listen)
    bench.run()
    assert bench.metric("hne_flops_total") == flops[1] + flops[5] + flops[16]


def test_what_lies_between_two_steps_is_part_of_what_a_step_takes(bench: Bench) -> None:
    def expected() -> float:
        return bench.engine.snapshot().profile[1].expected[1]

    bench.engine.submit(images(1)[0], Budget(max_ensemble_size=2), bench.listen)
    bench.engine.step()
    before = expected()
    bench.clock.now += 100 * before
    bench.engine.step()
    assert expected() > 1.01 * before


def test_the_time_after_a_step_that_failed_is_no_gap_and_no_cost(make: MakeBench) -> None:
    bench = make(max_batch=1)

    def fail(segment: Segment) -> None:
        if len(bench.runner.batches) == 1:
            raise RunnerError(bench.package.step(0), "broken")

    def expected() -> float:
        return bench.engine.snapshot().profile[0].expected[1]

    for image in images(3):
        bench.engine.submit(image, Budget(max_ensemble_size=1), bench.listen)
    bench.engine.step()
    before = expected()
    bench.runner.before = fail
    bench.engine.step()
    bench.runner.before = lambda segment: None
    bench.clock.now += 60
    bench.engine.step()
    assert len(bench.runner.batches) == 2
    assert bench.metric("hne_step_gap_seconds_sum") == 0
    assert expected() == pytest.approx(before)


def test_the_allowed_ensemble_size_counts_the_one_that_arrives(make: MakeBench) -> None:
    tree = make().tree
    four = sum(seconds(tree, Segment(leaf), 1) for leaf in range(4))
    for more, size in ((1e-6, 4), (-1e-6, 3)):
        assert make(reference_deadline=four + more).engine.snapshot().ensemble_size_allowed == size


def test_who_is_ended_by_the_policy_is_told_so(make: MakeBench) -> None:
    def two(situation: Situation) -> Decision | None:
        size, queue = next(situation.queues.everyone(), (0, ()))
        return Decision(segment=Segment(size), entries=tuple(queue), target=2) if queue else None

    bench = make(policy=two)
    ticket, modest = (
        bench.engine.submit(images(1)[0], Budget(max_ensemble_size=size), bench.listen) for size in (None, 1)
    )
    bench.run()
    assert (bench.last(ticket).ensemble_size, bench.last(ticket).stop_reason) == (2, StopReason.POLICY)
    assert bench.last(modest).stop_reason is StopReason.ENSEMBLE_SIZE


@pytest.mark.parametrize("how", ["its answer", "its leaving"])
def test_a_drain_is_over_with_the_last_request(bench: Bench, how: str) -> None:
    """And does not take all of its time."""
    ticket = bench.engine.submit(images(1)[0], Budget(max_ensemble_size=1), bench.listen)
    drain = threading.Thread(target=bench.engine.drain, args=(3600,), daemon=True)
    drain.start()
    _until(lambda: bench.engine.draining)
    if how == "its leaving":
        bench.engine.cancel(ticket)
    else:
        bench.engine.step()
    drain.join(PATIENCE)
    assert not drain.is_alive()


def _until(holds: Callable[[], bool]) -> None:
    tick = threading.Event()
    for _ in range(1000 * PATIENCE):
        if holds():
            return
        tick.wait(0.001)
    pytest.fail("it never came to that")


def test_who_leaves_while_a_batch_is_about_to_be_computed_changes_nothing_of_it(make: MakeBench) -> None:
    bench = make(max_batch=1)
    core = bench.engine._core
    first, leaving = (bench.engine.submit(image, Budget(max_ensemble_size=1), bench.listen) for image in images(2))
    bench.engine.submit(images(1)[0], Budget(max_ensemble_size=1), bench.listen)
    bench.engine.step()
    assert bench.last(first).ensemble_size == 1
    core.cancel(leaving)
    batch = core.schedule()
    assert batch is not None
    bench.clock.now += 0.25
    core.end_all()  # on another thread, which finds nobody else
    core.compute(batch)
    assert bench.metric("hne_step_gap_seconds_sum") == pytest.approx(0.25)


def test_alone_a_request_takes_the_segments_that_take_least(package: Package) -> None:
    runner = OnnxRunner(package, wide=True)
    tree = package.manifest.spec.tree
    timings = {
        shape_of(tree, segment): {1: [max(1.0, 0.5 * segment.width)]}  # of two leaves no more than of one
        for segment in runner.segments
    }
    core = Core(
        package,
        runner,
        settings=EngineSettings(),
        recorder=Recorder(package, CollectorRegistry()),
        clock=FakeClock(),
        profile=Profile(tree, timings, max_batch=32),
    )
    latencies = core.state(draining=False).latencies
    assert [latencies[size - 1] for size in (1, 2, 3, 4, 16)] == [1, 1, 2, 2, 8]
    runner.close()
