import numpy as np
import pytest

from service.slots import SlotPool


def pool(capacity: int = 8) -> SlotPool:
    return SlotPool(capacity, classes=3)


def test_the_pool_has_its_capacity_and_no_more() -> None:
    slots = pool(3)
    taken = {slots.take() for _ in range(3)}
    assert taken == {0, 1, 2}
    assert slots.available == 0
    slots.free(1)
    assert slots.take() == 1


def test_requests_that_come_one_after_the_other_are_neighbours() -> None:
    slots = pool(256)
    early = [slots.take() for _ in range(3)]
    slots.free(early[1])
    assert [slots.take() for _ in range(3)] == [3, 4, 5], "not the gap, which would tear them apart"
    for slot in (*range(3, 6), early[0], early[2]):
        slots.free(slot)
    assert slots.take() == 0, "from the start where nobody is left"


def test_the_round_grows_with_those_that_have_a_slot() -> None:
    slots = pool(256)
    kept = [slots.take() for _ in range(40)]
    for expected in (*range(40, 80), *range(40, 60)):
        slot = slots.take()
        assert slot == expected
        slots.free(slot)
    assert kept == list(range(40))


def test_the_last_slots_are_found_wherever_they_are() -> None:
    slots = pool(8)
    for _ in range(8):
        slots.take()
    slots.free(2)
    assert slots.take() == 2
    for slot in (7, 0):
        slots.free(slot)
    assert [slots.take(), slots.take()] == [7, 0]


def test_a_slot_cannot_be_freed_twice() -> None:
    slots = pool()
    slot = slots.take()
    slots.free(slot)
    with pytest.raises(AssertionError, match="free already"):
        slots.free(slot)


@pytest.mark.parametrize("widths", [(1, 1), (2,)], ids=["one by one", "together"])
def test_probabilities_are_the_softmax_of_the_mean_logits_over_the_temperature(widths: tuple[int, ...]) -> None:
    slots = pool()
    taken = [slots.take() for _ in range(3)]
    chosen = [taken[2], taken[0]]
    logits = np.random.default_rng(0).standard_normal((2, 2, 3), np.float32)  # two leaves, two requests
    for leaves in np.split(logits, np.cumsum(widths)[:-1]):
        slots.add_logits(chosen, leaves)
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
