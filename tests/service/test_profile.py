import numpy as np
import pytest

from model_core.tree import Segment, Tree
from service.profile import COST_WINDOW, Profile, Shape

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


def test_a_padded_batch_takes_as_long_as_the_next_power_of_two() -> None:
    timings = {Shape(block, 1): {1: [0.001], 2: [0.002], 4: [0.005]} for block in range(3)}
    padded = Profile(TREE, timings, max_batch=12, pads=True)

    def seconds() -> list[float]:
        return [padded.expected(FIRST, batch) for batch in (1, 2, 3, 4, 5, 8, 9, 12)]

    assert seconds() == pytest.approx([0.001, 0.002, 0.005, 0.005, 0.01, 0.01, 0.02, 0.02])
    for _ in range(400):
        padded.observe(FIRST, 3, 0.006)
    assert seconds() == pytest.approx([0.001, 0.002, 0.006, 0.006, 0.012, 0.012, 0.024, 0.024], rel=0.02)


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


def test_what_a_request_costs_at_best_is_that_of_the_most_efficient_batch() -> None:
    assert profile().cheapest(FIRST) == pytest.approx(0.016 / 4)
    small = Profile(TREE, {Shape(block, 1): {1: [0.001], 4: [0.016]} for block in range(3)}, max_batch=4)
    assert small.cheapest(FIRST) == pytest.approx(0.001)


def test_the_straggler_factor_is_that_of_all_segments_together() -> None:
    learned = profile()
    assert learned.straggle == 1.0
    for step in range(200):
        learned.observe(FIRST if step % 2 else LAST, 1, (0.010 if step % 2 else 0.002) * (3 if step % 20 == 0 else 1))
    assert learned.straggle == pytest.approx(3, rel=0.3)


def test_its_description_names_the_measured_batches() -> None:
    described = profile().describe(LAST)
    assert described.ensemble_size == 4
    assert described.expected == pytest.approx({1: 0.002, 4: 0.004})
    assert described.quantile == pytest.approx({1: 0.002, 4: 0.004})


def test_what_leaves_have_lately_cost_is_told_with_every_slow_step() -> None:
    learned = profile()
    assert (learned.first_leaf, learned.further_leaf) == (learned.cheapest(FIRST), learned.cheapest(Segment(1)))
    learned.observe(FIRST, 3, 0.018)
    learned.observe(FIRST, 1, 0.090)
    assert learned.first_leaf == pytest.approx(0.108 / 4)
    assert learned.further_leaf == learned.cheapest(Segment(1))
    learned.observe(Segment(1), 2, 0.006)
    learned.observe(LAST, 4, 0.006)
    assert learned.further_leaf == pytest.approx(0.012 / 6)
    for _ in range(COST_WINDOW):
        learned.observe(FIRST, 2, 0.008)
    assert learned.first_leaf == pytest.approx(0.004), "older ones are forgotten"
    assert learned.further_leaf == pytest.approx(0.012 / 6)


def test_a_leaf_of_several_at_once_costs_its_share() -> None:
    timings = {
        Shape(0, 1): {1: [0.010]},
        Shape(0, 2): {1: [0.012]},
        Shape(1, 2): {1: [0.010]},
        Shape(2, 1): {1: [0.002]},
    }
    learned = Profile(TREE, timings, max_batch=4)
    learned.observe(Segment(2, 2), 4, 0.048)
    assert learned.further_leaf == pytest.approx(0.006)
    learned.observe(Segment(0, 2), 1, 0.1)
    assert learned.first_leaf == learned.cheapest(FIRST), "with others it is no first leaf of its own"
