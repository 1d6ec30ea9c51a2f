import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_core.tree import Tree
from service.slots import IMAGE, SlotPool, kept_shapes, rows_of


def pool(capacity: int = 8) -> SlotPool:
    return SlotPool(capacity, {0: (2, 3), 2: (4,)}, classes=3)


def test_the_pool_has_its_capacity_and_no_more() -> None:
    slots = pool(3)
    taken = {slots.take() for _ in range(3)}
    assert taken == {0, 1, 2}
    assert slots.available == 0
    slots.free(1)
    assert slots.take() == 1


def test_a_slot_cannot_be_freed_twice() -> None:
    slots = pool()
    slot = slots.take()
    slots.free(slot)
    with pytest.raises(AssertionError, match="free already"):
        slots.free(slot)


@given(st.permutations(range(8)), st.integers(1, 8))
def test_every_slot_keeps_its_own_activation_whatever_the_order(order: list[int], count: int) -> None:
    slots = pool()
    activations = np.random.default_rng(0).standard_normal((8, 2, 3), np.float32)
    slots.store(0, slice(0, 8), activations)
    slots.store(0, order[:count], 2 * activations[order[:count]])
    expected = activations.copy()
    expected[order[:count]] *= 2
    np.testing.assert_array_equal(slots.gather(0, order), expected[order])


def test_neighbours_are_read_in_place() -> None:
    slots = pool()
    assert rows_of([2, 3, 4]) == slice(2, 5)
    assert rows_of([2, 4]) == [2, 4]
    slots.gather(0, rows_of([2, 3, 4]))[:] = 7
    assert slots.gather(0, [3]).mean() == 7


def test_probabilities_are_the_softmax_of_the_mean_logits_over_the_temperature() -> None:
    slots = pool()
    taken = [slots.take() for _ in range(3)]
    chosen = [taken[2], taken[0]]
    logits = np.random.default_rng(0).standard_normal((2, 2, 3), np.float32)  # two leaves, two requests
    slots.add_logits(chosen, logits[:1])
    slots.add_logits(chosen, logits[1:])
    scaled = np.exp(logits.mean(axis=0) / 1.5)
    np.testing.assert_allclose(
        slots.probabilities(chosen, 2, 1.5), scaled / scaled.sum(axis=1, keepdims=True), rtol=1e-6
    )


def test_a_new_request_starts_without_the_logits_of_the_one_before() -> None:
    slots = pool()
    slot = slots.take()
    slots.add_logits([slot], np.array([[[5.0, 0.0, 0.0]]], np.float32))
    slots.free(slot)
    assert slots.take() == slot
    np.testing.assert_allclose(slots.probabilities([slot], 1, 1.0), 1 / 3, rtol=1e-6)


def test_the_image_is_kept_only_for_trees_that_read_it_again() -> None:
    shapes = {0: (4, 8, 8)}
    assert kept_shapes(Tree((1, 2, 2)), shapes, (3, 8, 8)) == shapes
    assert kept_shapes(Tree((2, 2)), shapes, (3, 8, 8)) == {IMAGE: (3, 8, 8), **shapes}


def test_memory_is_that_of_all_levels_and_logits() -> None:
    assert pool(8).memory_bytes == 8 * 4 * (2 * 3 + 4 + 3)
