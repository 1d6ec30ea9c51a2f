"""The engine's books, on instants of the test's own."""

import numpy as np
import pytest

from service.ledger import Ledger
from service.request import Budget
from service.scheduler import ARRIVALS, Entry
from service.slots import SlotPool


@pytest.mark.parametrize(
    ("budget", "widest"),
    [
        (Budget(), None),
        (Budget(min_confidence=1.0), None),
        (Budget(min_confidence=0.9), 1),
        (Budget(every_size=True), 1),
    ],
)
def test_who_may_stop_after_any_leaf_takes_them_one_by_one(budget: Budget, widest: int | None) -> None:
    ledger = Ledger((0, 10, 20), SlotPool(4, 3))
    request = ledger.admit(np.zeros((3, 2, 2), np.float32), budget, lambda _: None, 0.0)
    assert request.entry.widest == (widest or Entry(0.0, 0).widest)


def test_the_rate_of_arrivals_follows_the_last_of_them() -> None:
    ledger = Ledger((0, 10, 20), SlotPool(4, 3))
    image, budget = np.zeros((3, 2, 2), np.float32), Budget(deadline=1e9)

    def arrive(count: int, *, start: float, gap: float) -> float:
        for number in range(count):
            ledger.admit(image, budget, lambda _: None, start + number * gap)
        return start + count * gap

    now = arrive(ARRIVALS - 1, start=100.0, gap=0.5)
    assert ledger.arrival_rate(now) == 0.0, "too few to tell"
    now = arrive(1, start=now, gap=0.5)
    assert ledger.arrival_rate(now) == pytest.approx(2.0)
    now = arrive(ARRIVALS, start=now, gap=0.1)
    assert ledger.arrival_rate(now) == pytest.approx(10.0)
    assert ledger.arrival_rate(now + ARRIVALS * 0.1) == pytest.approx(5.0), "silence counts"
    arrive(ARRIVALS, start=now, gap=0.0)
    assert ledger.arrival_rate(now) > 1e6, "all at once"
