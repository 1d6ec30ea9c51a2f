"""Load on a real engine in the test's process."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.load.faults import Stragglers
from benchmarks.load.local import Local
from benchmarks.load.outcomes import MISSED, REFUSED, summary
from benchmarks.load.plan import Plan, constant, draw_plan
from model_core.package import Package
from model_core.tree import Segment
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
    assert all(o.intended <= o.sent <= o.first < o.answered for o in outcomes)


def test_what_is_correct_is_an_answer_with_the_image_s_label(local: Local) -> None:
    plan = draw_plan(constant(50.0, 0.5), deadlines=[np.inf], images=8, seed=1)
    outcomes = local.offer(plan, "anytime")
    right = [_label(local, image) == local.labels[image] for image in plan.images]
    assert [outcome.correct for outcome in outcomes] == right


def _label(local: Local, image: int) -> str:
    """What the network says of an image, computed leaf by leaf."""
    tree = local.tree
    kept: dict[int, np.ndarray] = {}
    total = np.zeros(local.manifest.spec.classes, np.float32)
    for leaf in range(tree.leaves):
        block = tree.entry_block(leaf)
        x = kept[block - 1] if block else local.pixels[image][np.newaxis]
        logits, activations = local.runner.run(Segment(leaf), x)
        kept |= activations
        total += logits[0, 0]
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


def test_an_answer_that_its_deadline_ends_is_what_it_had_by_then(local: Local) -> None:
    everything = 64 * sum(local.profile.expected(Segment(leaf), 1) for leaf in range(16))
    plan = at_once(64, everything / 8)
    outcomes = local.offer(plan, "anytime")
    delivered = [outcome for outcome in outcomes if outcome.delivered]
    assert any(outcome.cut for outcome in delivered)
    assert all(outcome.on_time and outcome.ensemble_size >= 1 for outcome in delivered)
    assert {outcome.status for outcome in outcomes} <= {200, MISSED}


def test_who_finds_no_place_is_refused(tiny_package: Path, images: list[tuple[str, bytes]]) -> None:
    limits = EngineSettings(max_batch=1, max_active=1, max_waiting=2, profile_seconds=0.1)
    small = Local(tiny_package, images, limits=limits, threads=1, runner="cpu")
    statuses = [outcome.status for outcome in small.offer(at_once(50, np.inf), "anytime")]
    assert 2 <= statuses.count(200) < 50
    assert statuses.count(200) + statuses.count(REFUSED) == 50


def test_capacity_and_latency_are_those_of_the_full_ensemble(local: Local) -> None:
    alone = sum(local.profile.expected(Segment(leaf), 1) for leaf in range(16))
    assert local.full_latency(0.3) > alone / 4
    assert 0 < local.capacity(0.3) < 4 * 4 / alone  # batches of at most 4


def test_stragglers_take_their_times_longer_and_change_nothing_else(tiny_package: Path) -> None:
    package = Package.load(tiny_package)
    real = OnnxRunner(package)
    x = np.zeros((1, *package.manifest.spec.input_shape), np.float32)
    naps: list[float] = []
    slowed = Stragglers(real, share=0.25, seed=1, factor=4.0, sleep=naps.append)
    for _ in range(400):
        logits, kept = slowed.run(Segment(0), x)
    assert len(naps) / 400 == pytest.approx(0.25, abs=0.08)
    assert all(nap > 0 for nap in naps)
    expected, activations = real.run(Segment(0), x)
    assert (logits == expected).all()
    assert all((kept[block] == activations[block]).all() for block in activations)
