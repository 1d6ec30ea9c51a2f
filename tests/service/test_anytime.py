"""The anytime policy, decision by decision."""

from collections.abc import Sequence
from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_core.tree import Segment
from service.policies import Anytime
from service.policies.anytime import CONFIDENT, FAIR_SHARE, LEAST, step_gains
from service.scheduler import LOSSES, Entry, Queues, expired
from tests.service.situations import (
    LEAVES,
    NOW,
    STEPS,
    TABLE,
    WIDE,
    Linear,
    figures,
    filled,
    machines,
    situation,
    waiting_lists,
)


@given(
    waiting_lists,
    st.lists(st.integers(1, LEAVES), min_size=14, max_size=14),
    machines,
    st.sampled_from([STEPS, WIDE]),
    st.integers(1, 5),
    st.integers(0, 3),
    st.integers(0, 2 * FAIR_SHARE),
    st.tuples(st.sampled_from([0.0, 0.5, 100.0]), st.sampled_from([0.1, 2.0, 5.0, inf])),
    st.tuples(st.sampled_from([0.0, 0.5, 1.0, 2.0]), st.sampled_from([0.0, 0.1]), st.sampled_from([0.0, 0.1])),
)
def test_whatever_the_policy_decides_can_be_run_in_time_and_within_limits(
    requests: list[tuple[int, float]],
    limits: list[int],
    costs: Linear,
    segments: Sequence[Sequence[Segment]],
    max_batch: int,
    free_slots: int,
    steps_run: int,
    arrivals: tuple[float, float],
    crowd: tuple[float, float, float],
) -> None:
    queues, costs.max_batch = Queues(LEAVES), max_batch
    for number, ((size, slack), limit) in enumerate(zip(requests, limits, strict=False)):
        queues.add(size, Entry(NOW + slack, number, max(limit, size + 1)))
    for entry in expired(queues, costs, NOW):
        queues.remove(next(size for size in range(LEAVES) if entry in queues[size]), entry)
    decision = Anytime(TABLE)(
        situation(
            queues,
            segments=segments,
            costs=costs,
            max_batch=max_batch,
            free_slots=free_slots,
            steps_run=steps_run,
            arrival_rate=arrivals[0],
            arrival_slack=arrivals[1],
            crowd_rate=crowd[0],
            lost=crowd[1],
            refused=crowd[2],
        )
    )
    if decision is None:
        assert crowd[1] or all(not queues[size] for size in range(1, LEAVES))
        assert not (queues[0] and free_slots)
        return
    segment, batch = decision.segment, len(decision.entries)
    assert 1 <= batch <= (max_batch if segment.start else min(max_batch, free_slots))
    assert len(set(decision.entries)) == batch
    assert set(decision.entries) <= set(queues[segment.start])
    assert segment in segments[segment.start]
    assert all(entry.limit >= segment.stop for entry in decision.entries)
    assert decision.target is None or decision.target >= segment.stop
    assert all(entry.deadline >= NOW + costs.expected(segment, batch) for entry in decision.entries)


def test_who_is_looked_at_after_every_leaf_is_in_no_wide_segment() -> None:
    costs = Linear(fixed=4.0, each=0.5)
    queues = Queues(LEAVES)
    queues.add(0, Entry(NOW + 90, 0, widest=1))
    queues.add(0, Entry(NOW + 99, 1))
    decision = Anytime(TABLE)(situation(queues, segments=WIDE, costs=costs))
    assert decision is not None
    assert (decision.segment, len(decision.entries)) == (Segment(0), 2)
    queues = Queues(LEAVES)
    queues.add(2, Entry(NOW + 90, 0, widest=1))
    decision = Anytime(TABLE)(situation(queues, segments=WIDE, costs=costs))
    assert decision is not None
    assert decision.segment == Segment(2)


@pytest.mark.parametrize(("size", "width"), [(None, 4), (2, 2), (1, 1)])
def test_patient_newcomers_are_not_taken_deeper_than_those_who_wait_for_a_refinement(
    size: int | None, width: int
) -> None:
    queues = filled((0, 1e6), *() if size is None else [(size, 1e6)])
    decision = Anytime(TABLE)(situation(queues, segments=WIDE, costs=Linear(fixed=4.0, each=0.5)))
    assert decision is not None
    assert decision.segment == Segment(0, width)


def test_without_a_deadline_segments_are_as_wide_as_pays() -> None:
    for fixed, width in ((0.0, 1), (4.0, LEAVES)):
        decision = Anytime(TABLE)(situation(filled((0, inf)), segments=WIDE, costs=Linear(fixed=fixed)))
        assert decision is not None
        assert decision.segment == Segment(0, width)


@pytest.mark.parametrize(("slack", "width"), [(2.1, 2), (1.9, 1), (inf, 2)])
def test_refinements_are_wide_where_a_leaf_is_cheaper_so_and_the_slack_allows_it(slack: float, width: int) -> None:
    costs = Linear(fixed=5.0, each=0.5)  # two leaves from size 2 on take 2 for one request, one takes 1.83
    decision = Anytime(TABLE)(situation(filled((2, slack)), segments=WIDE, costs=costs))
    assert decision is not None
    assert decision.segment == Segment(2, width)


def test_first_answers_come_first() -> None:
    decision = Anytime(TABLE)(situation(filled((1, 50), (1, 50), (2, 50), (0, 50))))
    assert decision is not None
    assert decision.segment == Segment(0)


def test_first_leaves_share_the_largest_batch_that_serves_more_even_if_a_straggler_would_be_late() -> None:
    costs = Linear(fixed=1.0, each=0.5, straggle=4.0)
    slack = 1.1 * costs.straggle * costs.expected(Segment(0), 1)
    queues = filled(*((0, slack) for _ in range(4)))
    decision = Anytime(TABLE)(situation(queues, costs=costs, max_batch=8, free_slots=8))
    assert decision is not None
    assert (decision.segment, len(decision.entries)) == (Segment(0), 4)


def test_then_the_step_that_gains_most_per_second() -> None:
    queues = filled((1, 50), (2, 50), (3, 50))
    decision = Anytime(figures([0.6, 0.61, 0.70, 0.71]))(situation(queues, costs=Linear()))
    assert decision is not None
    assert decision.segment == Segment(2), "the third leaf gains most, and it costs less than the second"


@pytest.mark.parametrize(
    ("arrival_slack", "batch"),
    [(inf, 4), (3.0, 4), (2.9, 3), (2.5, 2), (2.25, 1), (2.0, 4)],  # a first leaf takes 1.5 s, these 0.5 and 0.25 each
)
def test_a_batch_that_refines_is_as_large_as_those_can_wait_for_who_come_meanwhile(
    arrival_slack: float, batch: int
) -> None:
    decision = Anytime(TABLE)(situation(filled(*[(1, 50)] * 4), arrival_slack=arrival_slack))
    assert decision is not None
    assert (decision.segment, len(decision.entries)) == (Segment(1), batch), "all of them if not even one is so short"


def test_who_waits_with_the_eldest_is_no_more_than_those_can_wait_for_who_come_meanwhile() -> None:
    queues = filled(*[(1, 1e6 - number) for number in range(4)])
    decision = Anytime(TABLE)(situation(queues, arrival_slack=2.5, steps_run=FAIR_SHARE))
    assert decision is not None
    assert decision.segment == Segment(1)
    assert [entry.number for entry in decision.entries] == [3, 0], "the most urgent and the eldest"


def test_full_slots_are_freed_by_finishing_the_deepest() -> None:
    decision = Anytime(TABLE)(situation(filled((0, 50), (1, 50), (1, 50), (3, 50)), free_slots=0))
    assert decision is not None
    assert decision.segment == Segment(3)


@pytest.mark.parametrize("deadline", [inf, NOW + 30_000], ids=["none", "far"])
def test_a_patient_request_finishes_under_endless_load(deadline: float) -> None:
    policy, queues, costs = Anytime(TABLE), Queues(LEAVES), Linear()
    patient = Entry(deadline, 0)
    queues.add(0, patient)
    size = 0
    for steps_run in range(FAIR_SHARE * (LEAVES + 1)):
        for number in range(4):  # a full batch of urgent requests arrives with every step
            queues.add(0, Entry(NOW + 6, 1 + number + 4 * steps_run))
        decision = policy(situation(queues, costs=costs, free_slots=4, steps_run=steps_run))
        assert decision is not None
        for entry in decision.entries:
            queues.remove(decision.segment.start, entry)
        if patient in decision.entries:
            size = decision.segment.stop
            if size == LEAVES:
                break
            queues.add(size, patient)
    assert size == LEAVES


def test_who_will_not_be_refined_is_answered_with_the_first_leaf() -> None:
    for slacks, last in (
        ([5, 5, 5, 5, *[9] * 8], 1),  # 3 s for these four, and 6 for the others
        ([5, 5, 5, 30, *[40] * 8], None),  # for the last of them there is time
        ([5, 5, 5, 5, 9], None),
        ([5, 5, 5, 5], None),
    ):
        decision = Anytime(TABLE)(situation(filled(*((0, slack) for slack in slacks)), free_slots=9, steps_run=1))
        assert decision is not None
        assert (decision.segment, len(decision.entries), decision.target) == (Segment(0), 4, last)


def test_those_who_come_meanwhile_count_as_waiting() -> None:
    for slack, rate, last in (
        (9, 0.5, None),  # 3 s for these four, in which 1.5 come, and others behind them: 1.5 * 0.75 / (1 - 0.375) = 1.8
        (9, 1.0, 1),  # 3 * 0.75 / (1 - 0.75) = 9
        (9, 2.0, 1),  # more than can be served
        (9, 1e3, 1),
        (1e9, 1e3, None),  # as many as in a moment do not come until then
        (inf, 2.0, None),
    ):
        busy = situation(filled(*[(0, slack)] * 4), free_slots=9, steps_run=1, arrival_rate=rate)
        decision = Anytime(TABLE)(busy)
        assert decision is not None
        assert (decision.segment, len(decision.entries), decision.target) == (Segment(0), 4, last)


def test_the_certain_stop_while_others_wait_for_a_first_leaf() -> None:
    policy = Anytime(TABLE)
    busy = policy(situation(filled(*[(0, 50.0)] * 8), free_slots=9, steps_run=1))
    alone = policy(situation(filled(*[(0, 50.0)] * 3), free_slots=9, steps_run=1))
    no_slot = policy(situation(filled((0, 50.0), (1, 50.0)), free_slots=0, steps_run=1))
    assert busy is not None
    assert alone is not None
    assert no_slot is not None
    assert (busy.enough, alone.enough, no_slot.enough) == (CONFIDENT, None, CONFIDENT)


def test_a_patient_request_is_refined_however_many_wait() -> None:
    decision = Anytime(TABLE)(situation(filled((0, inf), *[(0, inf)] * 20), free_slots=9, steps_run=1))
    assert decision is not None
    assert decision.target is None


def test_what_a_step_is_worth_ignores_noise_in_the_table() -> None:
    gains = step_gains(figures([0.60, 0.58, 0.68, 0.66], flops=[10, 20, 30, 40]))
    assert gains == pytest.approx((0.60, 0.04, 0.10, LEAST)), "the dip at 2 does not hide what 3 brings"


@pytest.mark.parametrize("lost", [0.0, 1 / LOSSES, 1.0])
def test_what_brings_nothing_is_computed_all_the_same_where_nobody_else_needs_the_machine(lost: float) -> None:
    policy = Anytime(figures([0.6, 0.7, 0.75, 0.75]))
    decision = policy(situation(filled((3, 1e4)), lost=lost, arrival_rate=1e-6, arrival_slack=1e3))
    assert decision is not None
    assert decision.segment == Segment(3)
    busy = policy(situation(filled((3, 1e4)), lost=0.5, arrival_rate=5.0, arrival_slack=1e3))
    assert busy is None, "but not in a load that loses others"


def lossy(*sizes: int, lost: float, rate: float = 2.0) -> int:
    """How many requests at these ensemble sizes are refined together, while so many others were lost lately."""
    queues = filled(*((size, 50.0) for size in sizes))
    decision = Anytime(TABLE)(situation(queues, lost=lost, arrival_rate=rate, arrival_slack=1e3))
    return 0 if decision is None else len(decision.entries)


def test_the_more_were_lost_the_shorter_is_what_is_refined() -> None:
    # Batches of 1, 2 and 3 take 0.75, 1 and 1.25 s, each second of which gains 0.13, 0.2 and 0.24 right answers.
    assert [lossy(1, 1, 1, lost=lost) for lost in (0.0, 0.1, 0.225, 0.3)] == [3, 3, 2, 0]


def test_where_first_leaves_take_little_of_the_machine_losses_have_other_causes() -> None:
    assert lossy(1, 1, 1, lost=1.0, rate=0.1) == 3
