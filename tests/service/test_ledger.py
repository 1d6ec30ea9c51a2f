"""The engine's books, on instants of the test's own."""

from math import inf

import numpy as np
import pytest

from model_core.tree import Segment
from service.errors import DeadlineMissedError, DrainingError
from service.ledger import Ledger, Request
from service.request import Budget, Refinement, StopReason
from service.scheduler import ARRIVALS, LOSSES, REFUSALS, Decision, Entry, Situation
from service.slots import SlotPool
from tests.service.situations import STEPS, Linear

IMAGE = np.zeros((3, 2, 2), np.float32)


def ledger_of() -> Ledger:
    return Ledger((0, 10, 20), SlotPool(4, 3), Linear())


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
    ledger = ledger_of()
    request = ledger.admit(IMAGE, budget, lambda _: None, 0.0)
    assert request.entry.widest == (widest or Entry(0.0, 0).widest)


def arrivals(ledger: Ledger, now: float) -> tuple[float, float]:
    """Their rate and slack."""
    situation = ledger.situation(now, segments=STEPS, max_batch=4, steps_run=0)
    return situation.arrival_rate, situation.arrival_slack


def arrive(ledger: Ledger, count: int, *, start: float, gap: float = 0.0, slack: float = 1e9) -> float:
    """When the next one would come."""
    for number in range(count):
        now = start + number * gap
        ledger.admit(IMAGE, Budget(deadline=now + slack), lambda _: None, now)
    return start + count * gap


def test_the_rate_of_arrivals_follows_the_last_of_them() -> None:
    ledger = ledger_of()
    now = arrive(ledger, ARRIVALS - 1, start=100.0, gap=0.5)
    assert arrivals(ledger, now)[0] == 0.0, "too few to tell"
    now = arrive(ledger, 1, start=now, gap=0.5)
    assert arrivals(ledger, now)[0] == pytest.approx(2.0)
    now = arrive(ledger, ARRIVALS, start=now, gap=0.1)
    assert arrivals(ledger, now)[0] == pytest.approx(10.0)
    assert arrivals(ledger, now + ARRIVALS * 0.1)[0] == pytest.approx(5.0), "silence counts"
    arrive(ledger, ARRIVALS, start=now)
    assert arrivals(ledger, now)[0] > 1e6, "all at once"


def test_the_slack_of_arrivals_is_that_of_the_most_urgent_whom_anything_can_help() -> None:
    ledger = ledger_of()
    assert arrivals(ledger, 100.0)[1] == inf
    for slack, count, urgent in (
        (9.0, 1, 9.0),  # from the first on
        (50.0, ARRIVALS - 1, 50.0),  # one in so many does not count
        (9.0, ARRIVALS // 10, 9.0),
        (1.4, ARRIVALS, 9.0),  # a first leaf takes 1.5 s
        (30.0, ARRIVALS, 30.0),
    ):
        arrive(ledger, count, start=100.0, slack=slack)
        assert arrivals(ledger, 100.0)[1] == pytest.approx(urgent)


def test_only_who_finds_others_makes_a_crowd() -> None:
    ledger = ledger_of()

    def crowd(now: float) -> float:
        return ledger.situation(now, segments=STEPS, max_batch=4, steps_run=0).crowd_rate

    for number in range(2 * ARRIVALS):  # a client that is alone
        ledger.cancel(ledger.admit(IMAGE, Budget(), lambda _: None, 0.1 * number).ticket)
    assert crowd(20.0) == 0.0
    now = arrive(ledger, ARRIVALS, start=20.0, gap=0.1)
    assert crowd(now) == 0.0, "the first of these found nobody"
    now = arrive(ledger, 1, start=now, gap=0.1)
    assert crowd(now) == pytest.approx(10.0)
    assert crowd(now + ARRIVALS * 0.1) == pytest.approx(5.0), "silence counts"


def test_what_share_was_lost_is_told_of_the_last_to_begin_or_end() -> None:
    ledger = ledger_of()

    def lost() -> float:
        return ledger.situation(0.0, segments=STEPS, max_batch=4, steps_run=0).lost

    def admitted() -> Request:
        return ledger.admit(IMAGE, Budget(), lambda _: None, 0.0)

    assert lost() == 0.0, "nobody has come"
    ledger.end(admitted(), StopReason.DEADLINE, DeadlineMissedError(), 1.0)
    assert lost() == 1.0
    ledger.end(admitted(), StopReason.DRAIN, DrainingError(), 1.0)
    assert lost() == 0.5, "a service that ends has let nobody wait too long"
    for _ in range(LOSSES - 1):
        ledger.end(admitted(), StopReason.DEADLINE, DeadlineMissedError(), 1.0)
    assert lost() == pytest.approx(1 - 1 / LOSSES), "the first is forgotten"


def test_who_found_no_place_is_one_of_those_who_came() -> None:
    ledger = ledger_of()

    def seen(now: float) -> Situation:
        return ledger.situation(now, segments=STEPS, max_batch=4, steps_run=0)

    for index in range(ARRIVALS):
        ledger.refuse(0.1 * index)
    assert seen(0.1 * ARRIVALS).refused == 1.0
    assert seen(0.1 * ARRIVALS).arrival_rate == seen(0.1 * ARRIVALS).crowd_rate == pytest.approx(10.0)
    assert seen(0.0).lost == 0.0
    for _ in range(REFUSALS):
        ledger.cancel(ledger.admit(IMAGE, Budget(), lambda _: None, 0.0).ticket)
    assert seen(0.0).refused == 0.0


def test_who_is_refined_counts_once_as_not_lost() -> None:
    ledger = ledger_of()
    ledger.end(ledger.admit(IMAGE, Budget(), lambda _: None, 0.0), StopReason.DEADLINE, DeadlineMissedError(), 1.0)
    request = ledger.admit(IMAGE, Budget(), lambda _: None, 0.0)
    for size in (1, 2):
        (entry,) = ledger.queues[size - 1]
        ledger.release(ledger.begin(Decision(segment=Segment(size - 1), entries=(entry,)), 0.0))
        ledger.advance(
            request,
            Refinement(
                ensemble_size=size,
                flops=size,
                probabilities=np.ones(2, np.float32),
                stop_reason=StopReason.COMPLETE if size == 2 else None,
                started_at=0.0,
                first_at=1.0,
                at=1.0,
            ),
        )
    assert ledger.situation(0.0, segments=STEPS, max_batch=4, steps_run=0).lost == 0.5
