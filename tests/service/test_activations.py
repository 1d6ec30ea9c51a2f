import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from model_core.tree import Tree
from service.runners.activations import IMAGE, Activations, kept_shapes
from service.runners.base import batch_of, rows_of

SHAPES = {0: (2, 3), 2: (4,)}


@given(st.permutations(range(8)), st.integers(1, 8))
def test_every_slot_keeps_its_own_activation_whatever_the_order(order: list[int], count: int) -> None:
    slots = Activations(8, SHAPES)
    activations = np.random.default_rng(0).standard_normal((8, 2, 3), np.float32)
    slots.store(0, slice(0, 8), activations)
    slots.store(0, order[:count], 2 * activations[order[:count]])
    expected = activations.copy()
    expected[order[:count]] *= 2
    np.testing.assert_array_equal(slots.gather(0, order), expected[order])


def test_neighbours_are_read_in_place() -> None:
    slots = Activations(8, SHAPES)
    assert rows_of([2, 3, 4]) == slice(2, 5)
    assert rows_of([2, 4]) == [2, 4]
    assert (batch_of(slice(2, 5)), batch_of([2, 4])) == (3, 2)
    slots.gather(0, rows_of([2, 3, 4]))[:] = 7
    assert slots.gather(0, [3]).mean() == 7


def test_the_image_is_kept_only_for_trees_that_read_it_again() -> None:
    shapes = {0: (4, 8, 8)}
    assert kept_shapes(Tree((1, 2, 2)), shapes, (3, 8, 8)) == shapes
    assert kept_shapes(Tree((2, 2)), shapes, (3, 8, 8)) == {IMAGE: (3, 8, 8), **shapes}


def test_memory_is_that_of_all_levels() -> None:
    assert Activations(8, SHAPES).memory_bytes == 8 * 4 * (2 * 3 + 4)
