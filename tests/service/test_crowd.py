"""How far first leaves are taken in a crowd."""

from math import inf

import pytest

from model_core.tree import Segment, Tree
from service.policies import Anytime
from service.policies.anytime import FAIR_SHARE
from service.policies.crowd import PATIENT
from service.profile import Profile, Shape
from service.scheduler import Decision, Entry, Queues, by_start
from tests.service.situations import LEAVES, NOW, TABLE, WIDE, Linear, filled, situation

COSTS = Linear(fixed=0.0, each=0.5)
"""A first leaf costs half a second, the second a quarter, in batches of any size."""


def taken_to(*slacks: float, costs: Linear = COSTS, **changes: object) -> int | None:
    """The ensemble size up to which the policy starts requests with these slacks; None: as far as their budgets go."""
    queues = filled(*((0, slack) for slack in slacks))
    decision = Anytime(TABLE)(situation(queues, costs=costs, **changes))
    assert decision is not None
    assert decision.segment.start == 0
    assert decision.target is None or decision.segment.stop <= decision.target < LEAVES
    return decision.target


@pytest.mark.parametrize(
    ("rate", "target"),
    [
        (0.0, None),  # unknown
        (0.5, None),  # 1.5 s for further leaves: 7 in all
        (1.0, None),  # 0.5 s: 3 in all, which is nearer to 4
        (1.3, 2),  # 0.27 s: 2.1 in all
        (1.6, 2),  # 0.125 s: 1.5 in all
        (1.8, 1),  # 0.056 s: 1.2 in all
        (2.0, 1),
        (50.0, 1),
    ],
)
def test_a_crowd_that_loses_requests_gets_the_leaves_it_has_time_for(rate: float, target: int | None) -> None:
    assert taken_to(9.0, crowd_rate=rate, lost=0.01) == target


def test_who_loses_nobody_is_no_crowd_however_often_it_asks() -> None:
    assert taken_to(9.0, crowd_rate=50.0) is None


def test_where_keeping_costs_nothing_everything_is_kept() -> None:
    assert taken_to(9.0, crowd_rate=50.0, lost=0.1, keeping_costs=False) is None


def test_the_patient_outwait_a_crowd() -> None:
    far = PATIENT * 0.5
    assert taken_to(0.9 * far, crowd_rate=50.0, lost=0.1) == 1
    assert taken_to(1.1 * far, crowd_rate=50.0, lost=0.1) is None
    assert taken_to(inf, crowd_rate=50.0, lost=0.1) is None
    together = Linear()  # in batches a leaf costs less
    assert taken_to(9.0, 9.0, crowd_rate=50.0, lost=0.1, costs=together) == 1
    assert taken_to(9.0, inf, crowd_rate=50.0, lost=0.1, costs=together) is None, "nor are they cut short with others"


@pytest.mark.parametrize(("rate", "target"), [(0.0, None), (0.5, None), (1.0, 3), (1.3, 2), (1.6, 1), (50.0, 1)])
def test_where_requests_find_no_place_the_patient_get_no_more_than_there_is_time_for(
    rate: float, target: int | None
) -> None:
    for keeping_costs in (True, False):
        assert taken_to(inf, inf, crowd_rate=rate, refused=0.01, keeping_costs=keeping_costs) == target
    assert taken_to(inf, inf, crowd_rate=rate) is None


@pytest.mark.parametrize(
    ("free_slots", "steps_run"), [(0, 1), (3, FAIR_SHARE)], ids=["no slot is free", "the eldest's turn"]
)
def test_where_requests_find_no_place_who_holds_a_slot_goes_no_further_either(free_slots: int, steps_run: int) -> None:
    def decided(**changes: float) -> Decision | None:
        queues = filled((1, inf), (0, inf))
        return Anytime(TABLE)(situation(queues, costs=COSTS, free_slots=free_slots, steps_run=steps_run, **changes))

    patient, refused = decided(), decided(crowd_rate=50.0, refused=0.01)
    assert patient is not None
    assert refused is not None
    assert (patient.segment, patient.target) == (Segment(1), None)
    assert (refused.segment, refused.target) == (Segment(1), 2)


def test_slow_steps_leave_a_crowd_less_time() -> None:
    class Slowed(Linear):
        @property
        def first_leaf(self) -> float:
            return 2 * super().first_leaf

    assert taken_to(9.0, crowd_rate=1.0, lost=0.01, costs=Slowed(fixed=0.0, each=0.5)) == 1


def test_a_network_alone_has_no_further_leaf() -> None:
    alone = Tree((1,))
    costs = Profile(alone, {Shape(0, 1): {1: [0.5]}}, max_batch=4)
    queues = Queues(1)
    queues.add(0, Entry(NOW + 9, 0))
    changes = {"segments": by_start(alone.segments(), 1), "costs": costs, "crowd_rate": 50.0, "lost": 0.1}
    decision = Anytime(TABLE[:1])(situation(queues, **changes))
    assert decision is not None
    assert (decision.segment, decision.target) == (Segment(0), None)


def test_a_wide_first_segment_is_taken_no_shorter_than_it_is() -> None:
    costs = Linear(fixed=4.0, each=0.5)
    decision = Anytime(TABLE)(situation(filled((0, 90.0)), segments=WIDE, costs=costs, crowd_rate=50.0, lost=0.01))
    assert decision is not None
    assert decision.segment == Segment(0, LEAVES)
    assert decision.target is None
