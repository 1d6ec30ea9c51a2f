"""How deep the anytime policy's first answers are: how many leaves at once."""

from math import inf

import pytest

from model_core.tree import Segment
from service.policies import Anytime
from service.policies.anytime import BURST, UNLIKELY
from tests.service.situations import (
    LEAVES,
    TABLE,
    WIDE,
    Linear,
    filled,
    situation,
)


def widest(
    slack: float, *, arrival_slack: float = inf, arrival_rate: float = 0.0, lost: float = 0.0, **machine: float
) -> int:
    """How many leaves two requests, the more urgent with this slack, get at once; 4 s and half a second for each."""
    costs = Linear(**({"fixed": 4.0, "each": 0.25} | machine))
    arrivals = {"arrival_slack": arrival_slack, "arrival_rate": arrival_rate, "lost": lost}
    queues = filled((0, slack), (0, 50), (1, 50))
    decision = Anytime(TABLE)(situation(queues, segments=WIDE, costs=costs, **arrivals))
    assert decision is not None
    assert decision.segment.start == 0
    assert len(decision.entries) == 2
    return decision.segment.width


def test_first_answers_are_as_deep_as_the_most_urgent_can_wait_for() -> None:
    assert [widest(4 + leaves / 2) for leaves in (1, 2, 4)] == [1, 2, 4]
    assert [widest(4 + leaves / 2 - 0.1) for leaves in (2, 4)] == [1, 2]


def test_first_answers_are_as_deep_as_those_can_wait_for_who_come_meanwhile() -> None:
    first = 4.25  # a first leaf alone
    assert [widest(50, arrival_slack=first + 4 + leaves / 2) for leaves in (1, 2, 4)] == [1, 2, 4]
    assert [widest(50, arrival_slack=first + 4 + leaves / 2 - 0.1) for leaves in (2, 4)] == [1, 2]
    assert widest(50, arrival_slack=first + 6, straggle=1.1) == 2


@pytest.mark.parametrize(
    ("slack", "straggle", "width"),
    [(11.61, 1.0, 4), (11.59, 1.0, 2), (10.01, 1.0, 2), (9.99, 1.0, 1), (11.61, 1.1, 2), (inf, 1.0, 4)],
)
def test_first_answers_are_as_deep_as_those_can_wait_for_who_wait_on(slack: float, straggle: float, width: int) -> None:
    # 7.2 s for four leaves of four, 5.6 for two, and 4.4 for two's first.
    costs = Linear(fixed=4.0, each=0.2, straggle=straggle)
    queues = filled(*[(0, 9.0)] * 4, (0, slack), (0, slack))
    decision = Anytime(TABLE)(situation(queues, segments=WIDE, costs=costs, free_slots=9))
    assert decision is not None
    assert len(decision.entries) == 4
    assert decision.segment == Segment(0, width)


def test_nobody_is_waited_for_who_hardly_comes() -> None:
    seldom = UNLIKELY / 6  # in the 6 s of four leaves
    assert [widest(50, arrival_slack=9, arrival_rate=rate) for rate in (0.99 * seldom, 1.01 * seldom)] == [4, 2]


def test_nobody_is_waited_for_whom_no_step_is_short_enough() -> None:
    shortest = 4.25 / LEAVES
    assert [widest(50, arrival_slack=4.25 + part * shortest) for part in (0.9, 1.1)] == [4, 1]


def test_the_more_come_meanwhile_the_longer_is_their_own_batch() -> None:
    rate = 0.1
    theirs = 4.25 + BURST * rate * 6 * 0.25  # who comes in the 6 s of four leaves, in one batch
    assert widest(50, arrival_slack=6 + theirs, arrival_rate=rate) == 4
    assert widest(50, arrival_slack=6 + theirs - 0.1, arrival_rate=rate) == 2
    assert widest(50, arrival_slack=6 + 5, arrival_rate=1e3) == 4, "no more than the largest batch, which takes 5 s"


def test_first_answers_are_no_deeper_than_one_leaf_where_width_saves_nothing() -> None:
    assert widest(40, fixed=0.1, each=0.5) == 1


def test_while_requests_are_lost_first_answers_are_one_leaf_deep() -> None:
    assert widest(50, arrival_slack=1e3, arrival_rate=1.0) == 4
    assert widest(50, arrival_slack=1e3, arrival_rate=1.0, lost=0.5) == 1


def test_where_steps_straggle_less_is_run_at_a_time() -> None:
    assert [widest(6, straggle=straggle) for straggle in (1.0, 1.1, 4.0)] == [4, 2, 1]
