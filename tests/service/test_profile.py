from pathlib import Path

import numpy as np
import pytest

from model_core.package import Package
from model_core.tree import Segment, Tree
from service.profile import Profile, Shape, measure_profile
from service.runners.onnx import OnnxRunner

TREE = Tree((1, 2, 2))
FIRST, LAST = Segment(0), Segment(3)


def profile() -> Profile:
    timings = {
        Shape(0, 1): {1: [0.010], 4: [0.016]},
        Shape(1, 1): {1: [0.005], 4: [0.008]},
        Shape(2, 1): {1: [0.002, 0.002, 0.002], 4: [0.004, 0.004, 0.004]},
    }
    return Profile(TREE, timings, max_batch=8)


def test_measured_batches_are_met_others_interpolated_and_larger_ones_proportional() -> None:
    seconds = [profile().expected(FIRST, batch) for batch in (1, 2, 3, 4, 8)]
    assert seconds == pytest.approx([0.010, 0.012, 0.014, 0.016, 0.032])


def test_steps_of_one_shape_share_what_is_learned() -> None:
    learned = profile()
    learned.observe(Segment(1), 1, 0.004)
    assert learned.expected(LAST, 1) == learned.expected(Segment(1), 1) > 0.002
    assert learned.expected(Segment(2), 1) == 0.005


def test_a_machine_that_slows_down_is_followed() -> None:
    learned = profile()
    for _ in range(400):
        learned.observe(LAST, 3, 2 * 0.002 * (1 + 2 / 3))
    assert learned.expected(LAST, 3) == pytest.approx(2 * 0.002 * (1 + 2 / 3), rel=0.02)
    assert learned.quantile(LAST, 3) == pytest.approx(learned.expected(LAST, 3), rel=0.1)


def test_stragglers_raise_the_quantile_and_hardly_the_expectation() -> None:
    learned, random = profile(), np.random.default_rng(0)
    for slow in random.random(500) < 0.1:
        learned.observe(LAST, 4, 0.016 if slow else 0.004)
    assert learned.expected(LAST, 4) == pytest.approx(0.004, rel=0.15)
    assert learned.quantile(LAST, 4) == pytest.approx(0.016, rel=0.15)
    for _ in range(300):
        learned.observe(LAST, 4, 0.004)
    assert learned.quantile(LAST, 4) == pytest.approx(0.004, rel=0.05), "stragglers of long ago are forgotten"


def test_its_description_names_the_measured_batches() -> None:
    described = profile().describe(LAST)
    assert described.ensemble_size == 4
    assert described.expected == pytest.approx({1: 0.002, 4: 0.004})
    assert described.quantile == pytest.approx({1: 0.002, 4: 0.004})


class Ticking:
    """A clock that moves on by the same time whenever it is read."""

    def __init__(self, tick: float) -> None:
        self.now, self.tick = 0.0, tick

    def __call__(self) -> float:
        self.now += self.tick
        return self.now


@pytest.mark.parametrize(("budget", "batches"), [(1000.0, [1, 2, 4, 6]), (0.001, [1])])
def test_measuring_keeps_to_its_time_but_always_knows_batch_one(
    tiny_package: Path, budget: float, batches: list[int]
) -> None:
    package = Package.load(tiny_package)
    tree = package.manifest.spec.tree
    runner = OnnxRunner(package)
    runner.reserve(6)
    measured = measure_profile(
        runner, tree, package.manifest.spec.input_shape, max_batch=6, clock=Ticking(0.01), seconds=budget
    )
    runner.close()
    for leaf in range(tree.leaves):
        assert list(measured.describe(Segment(leaf)).expected) == batches
        assert measured.expected(Segment(leaf), 1) == pytest.approx(0.01)
