"""Load on a real engine in the test's process."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import benchmarks.load.local
from benchmarks.load.borrowed import Borrowed
from benchmarks.load.faults import Stragglers
from benchmarks.load.inprocess import answer_by, closed_loop
from benchmarks.load.local import Local
from benchmarks.load.outcomes import LOST, MISSED, REFUSED, summary
from benchmarks.load.plan import Plan, constant, draw_plan
from model_core.package import Package
from model_core.tree import Segment
from service.errors import DeadlineMissedError
from service.request import Failure, Refinement, StopReason
from service.runners import Array
from service.runners.base import Rows, batch_of
from service.runners.onnx import OnnxRunner
from service.state import EngineSettings

LIMITS = EngineSettings(max_batch=4, profile_seconds=0.2)


@pytest.fixture(scope="module")
def local(tiny_package: Path, images: list[tuple[str, bytes]]) -> Local:
    return Local(tiny_package, images, limits=LIMITS, threads=1, runner="cpu")


def test_without_deadlines_everyone_gets_the_full_ensemble(local: Local) -> None:
    plan = draw_plan(constant(50.0, 0.5), deadlines=[np.inf], images=8, seed=1)
    outcomes = local.offer(plan, "anytime")
    assert [outcome.intended for outcome in outcomes] == pytest.approx(plan.arrivals)
    assert {(o.status, o.ensemble_size, o.flops, o.cut) for o in outcomes} == {
        (200, 16, local.manifest.table[-1].flops, False)
    }
    assert all(o.intended <= o.sent <= o.first <= o.answered for o in outcomes)


def test_what_is_correct_is_an_answer_with_the_image_s_label(local: Local) -> None:
    plan = draw_plan(constant(50.0, 0.5), deadlines=[np.inf], images=8, seed=1)
    outcomes = local.offer(plan, "anytime")
    right = [_label(local, image) == local.labels[image] for image in plan.images]
    assert [outcome.correct for outcome in outcomes] == right


def _label(local: Local, image: int) -> str:
    """What the network says of an image, computed leaf by leaf."""
    total = np.zeros(local.manifest.spec.classes, np.float32)
    for leaf in range(local.tree.leaves):
        total += local.runner.run(Segment(leaf), slice(0, 1), None if leaf else local.pixels[image][np.newaxis])[0, 0]
    return local.manifest.class_names[int(total.argmax())]


def test_answers_are_late_for_nobody_and_stop_where_the_policy_says(local: Local) -> None:
    plan = draw_plan(constant(40.0, 0.5), deadlines=[30.0], images=8, seed=2)
    outcomes = local.offer(plan, "fixed:2")
    assert {(o.status, o.ensemble_size, o.cut, o.on_time) for o in outcomes} == {(200, 2, False, True)}


def test_deadlines_that_nobody_can_make_are_missed(local: Local) -> None:
    plan = draw_plan(constant(100.0, 0.3), deadlines=[1e-6], images=8, seed=3)
    figures = summary(local.offer(plan, "anytime"), plan.seconds)
    assert (figures["missed"], figures["goodput"], figures["lost"]) == (figures["offered"], 0, 0)


def at_once(count: int, deadline: float) -> Plan:
    return Plan(
        arrivals=np.zeros(count), deadlines=np.full(count, deadline), images=np.arange(count) % 8, seconds=deadline
    )


def refinement(size: int, stop_reason: StopReason | None = None) -> Refinement:
    return Refinement(
        ensemble_size=size,
        flops=size,
        probabilities=np.ones(1, np.float32),
        stop_reason=stop_reason,
        started_at=0,
        first_at=0,
        at=0,
    )


def test_an_answer_is_what_was_told_by_the_deadline() -> None:
    first, second, last = refinement(1), refinement(2), refinement(3, StopReason.COMPLETE)
    told = [(1.0, first), (2.0, second), (3.0, last)]
    assert answer_by(told, 4.0) == (200, 3.0, last, 1.0)
    assert answer_by(told, 2.5) == (200, 2.5, second, 1.0)  # at the deadline, by the timer
    assert answer_by(told, 0.5)[0] == MISSED
    assert answer_by(told, np.inf) == (200, 3.0, last, 1.0)
    assert answer_by(told[:2], np.inf)[0] == LOST  # the engine never ended it
    assert answer_by([(0.1, Failure(error=DeadlineMissedError(), at=0.1))], 4.0)[:2] == (MISSED, 0.1)
    assert answer_by([], 4.0)[0] == LOST


def test_under_overload_what_is_delivered_is_on_time(local: Local) -> None:
    everything = 64 * sum(local.profile.expected(Segment(leaf), 1) for leaf in range(16))
    outcomes = local.offer(at_once(64, everything / 8), "anytime")
    assert {outcome.status for outcome in outcomes} <= {200, MISSED}
    assert all(outcome.on_time and outcome.ensemble_size >= 1 for outcome in outcomes if outcome.delivered)


def test_who_finds_no_place_is_refused(tiny_package: Path, images: list[tuple[str, bytes]]) -> None:
    limits = EngineSettings(max_batch=1, max_active=1, max_waiting=2, profile_seconds=0.1)
    small = Local(tiny_package, images, limits=limits, threads=1, runner="cpu")
    statuses = [outcome.status for outcome in small.offer(at_once(50, np.inf), "anytime")]
    assert 2 <= statuses.count(200) < 50
    assert statuses.count(200) + statuses.count(REFUSED) == 50


def test_capacity_and_latency_are_those_of_the_full_ensemble(local: Local, monkeypatch: pytest.MonkeyPatch) -> None:
    run, computed = local.runner.run, 0

    def counted(segment: Segment, rows: Rows, images: Array | None = None, *, until: int | None = None) -> Array:
        nonlocal computed
        computed += segment.width * batch_of(rows)
        return run(segment, rows, images, until=until)

    def noted(*arguments: Any) -> list[float]:
        loops.append(closed_loop(*arguments))
        return loops[-1]

    loops: list[list[float]] = []
    monkeypatch.setattr(local.runner, "run", counted)
    monkeypatch.setattr(benchmarks.load.local, "closed_loop", noted)
    rate = local.capacity(0.3)
    ends = loops[-1]
    assert computed == 16 * len(ends)
    assert rate == pytest.approx(sum(end > ends[0] for end in ends) / (ends[-1] - ends[0]))
    computed = 0
    latency = local.full_latency(0.3)
    assert latency == pytest.approx(np.median(np.diff(loops[-1])))
    assert computed == 16 * len(loops[-1])


def test_a_closed_loop_keeps_no_more_than_may_wait(tiny_package: Path, images: list[tuple[str, bytes]]) -> None:
    limits = EngineSettings(max_batch=4, max_active=2, max_waiting=3, profile_seconds=0.1)
    small = Local(tiny_package, images, limits=limits, threads=1, runner="cpu")
    assert small.capacity(0.2) > 0


def test_stragglers_take_their_times_longer_and_change_nothing_else(tiny_package: Path) -> None:
    package = Package.load(tiny_package)
    real = Borrowed(OnnxRunner(package), slots=1)
    image = np.zeros((1, *package.manifest.spec.input_shape), np.float32)
    naps: list[float] = []
    slowed = Stragglers(real, share=0.25, seed=[1], factor=4.0, sleep=naps.append)
    for _ in range(400):
        logits = slowed.run(Segment(0), slice(0, 1), image)
    assert len(naps) / 400 == pytest.approx(0.25, abs=0.08)
    assert all(nap > 0 for nap in naps)
    assert (logits == real.run(Segment(0), slice(0, 1), image)).all()


def test_a_borrowed_runner_outlives_its_engines(local: Local) -> None:
    for _ in range(2):
        with local.engine("anytime") as engine:
            assert engine.snapshot().memory_bytes > 0
    plan = draw_plan(constant(50.0, 0.2), deadlines=[np.inf], images=8, seed=1)
    assert {outcome.status for outcome in local.offer(plan, "anytime")} == {200}
