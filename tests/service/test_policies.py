"""The baseline policies and their names."""

from collections.abc import Sequence
from math import inf

import pytest
from hypothesis import given
from hypothesis import strategies as st

from model_core.tree import Segment
from service.errors import SettingsError
from service.policies import Anytime, FixedSize, MostAccurate, Replan, SlackFit, parse_policy
from service.scheduler import Entry, Policy, Queues
from tests.service.situations import LEAVES, NOW, STEPS, TABLE, WIDE, Linear, filled, situation


class Alike(Linear):
    """All steps take the same, so that wide segments are the cheapest: 1 + batch x leaves / 2 seconds."""

    def expected(self, segment: Segment, batch: int) -> float:
        return self.fixed + self.each * batch * segment.width

    def cheapest(self, segment: Segment) -> float:
        return self.expected(segment, 4) / 4


class Threaded(Alike):
    """Several threads for steps in batches of three and more, one for wide segments."""

    def expected(self, segment: Segment, batch: int) -> float:
        return super().expected(segment, batch) / (3 if segment.width == 1 and batch >= 3 else 1)


BATCHING = Alike()


def begun(policy: Policy, *slacks: float, costs: Linear = BATCHING) -> tuple[int, list[int]]:
    """How deep the policy starts requests with these slacks, and which of them."""
    decision = policy(situation(filled(*((0, slack) for slack in slacks)), segments=WIDE, costs=costs))
    assert decision is not None
    assert decision.target is not None
    assert decision.segment == Segment(0, decision.target)
    return decision.target, [entry.number for entry in decision.entries]


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("anytime", Anytime),
        ("fixed:4", FixedSize),
        ("most_accurate_that_fits", MostAccurate),
        ("slackfit@1.5", SlackFit),
        ("replan", Replan),
    ],
)
def test_a_policy_is_asked_for_by_name(name: str, kind: type) -> None:
    assert isinstance(parse_policy(name, TABLE), kind)


@pytest.mark.parametrize("name", ["best", "fixed", "slackfit:4", "anytime@", "fixed:four", ""])
def test_an_unknown_policy_is_told_which_there_are(name: str) -> None:
    with pytest.raises(SettingsError, match="anytime, fixed:N, most_accurate_that_fits, slackfit, replan"):
        parse_policy(name, TABLE)


@pytest.mark.parametrize(
    ("name", "fault"), [("fixed:0", "1 to 4"), ("fixed:5", "1 to 4"), ("replan@0.5", "at least 1")]
)
def test_a_policy_out_of_range_is_refused(name: str, fault: str) -> None:
    with pytest.raises(SettingsError, match=fault):
        parse_policy(name, TABLE)


def test_fixed_leaves_out_what_cannot_make_it() -> None:
    assert begun(FixedSize(2), 1.9, 9, 9) == (2, [1, 2])
    assert begun(FixedSize(2, margin=2), 3.9, 4.1) == (2, [1])
    assert FixedSize(4)(situation(filled((0, 2.9)), segments=WIDE, costs=BATCHING)) is None


def test_fixed_takes_batches_only_where_they_pay() -> None:
    assert begun(FixedSize(2), 9, 9, 9) == (2, [0, 1, 2])
    assert begun(FixedSize(2), 9, 9, 9, costs=Alike(fixed=0.0)) == (2, [0])


def test_a_baseline_takes_the_cheapest_segments_and_not_the_widest() -> None:
    def first(waiting: int, size: int = 4) -> Segment:
        queues = filled(*((0, 9.0) for _ in range(waiting)))
        decision = FixedSize(size)(situation(queues, segments=WIDE, costs=Threaded()))
        assert decision is not None
        assert decision.target == size
        return decision.segment

    assert first(1) == first(2) == Segment(0, 4)
    assert first(4) == Segment(0), "four steps take 4 s, one wide segment 9"
    three_of_a_size = situation(filled(*((2, 9.0) for _ in range(3))), segments=WIDE, costs=Threaded())
    decision = FixedSize(4)(three_of_a_size)
    assert decision is not None
    assert decision.segment == Segment(2)
    deep = MostAccurate(LEAVES)(situation(filled(*((0, 4.1) for _ in range(4))), segments=WIDE, costs=Threaded()))
    assert deep is not None
    assert deep.target == LEAVES, "the wide segment would take too long"


def test_the_most_accurate_that_fits_is_chosen_for_all_who_wait() -> None:
    assert begun(MostAccurate(LEAVES), 9, 9) == (4, [0, 1])
    assert begun(MostAccurate(LEAVES), 3.5, 9) == (2, [0, 1])
    assert begun(MostAccurate(LEAVES, margin=2), 4.1, 9) == (1, [0, 1])
    assert begun(MostAccurate(LEAVES), 1.9, 9) == (1, [0]), "two with one leaf take 2"


def test_slackfit_prefers_many_over_deep_among_what_fills_the_slack() -> None:
    assert begun(SlackFit(LEAVES), 3.1, 9, 9) == (1, [0, 1, 2]), "2.5 for three with one leaf, 3 for one with four"
    assert begun(SlackFit(LEAVES), 5.1, 9) == (4, [0, 1])
    assert begun(SlackFit(LEAVES), 1.6) == (1, [0])


def test_replanning_follows_the_load_only_after_its_period() -> None:
    policy = Replan(LEAVES)

    def size_at(seconds: float, admitted: int) -> int:
        queues = Queues(LEAVES)
        queues.add(0, Entry(NOW + seconds + 10, 0))
        state = situation(queues, segments=WIDE, costs=BATCHING, now=NOW + seconds, admitted=admitted)
        decision = policy(state)
        assert decision is not None
        assert decision.target is not None
        return decision.target

    assert [size_at(0, 0), size_at(9, 9)] == [1, 1], "nothing is known yet"
    assert size_at(10, 4) == 4, "0.4 requests a second: four leaves for four of them take 9 s, too long; for two 5"
    assert size_at(19, 30) == 4
    assert size_at(20, 10) == 2, "0.6 a second: two leaves for four take 5 s, so 0.8"
    assert size_at(30, 20) == 1, "1 a second"


@given(
    st.lists(st.tuples(st.integers(0, LEAVES - 1), st.sampled_from([0.2, 1, 2, 3, 5, 9, inf])), max_size=12),
    st.lists(st.integers(1, LEAVES), min_size=12, max_size=12),
    st.sampled_from(["fixed:1", "fixed:3", "most_accurate_that_fits", "slackfit@1.5", "replan"]),
    st.sampled_from([STEPS, WIDE]),
    st.integers(0, 3),
)
def test_whatever_a_baseline_decides_can_be_run(
    requests: list[tuple[int, float]],
    limits: list[int],
    name: str,
    segments: Sequence[Sequence[Segment]],
    free_slots: int,
) -> None:
    queues = Queues(LEAVES)
    for number, ((size, slack), limit) in enumerate(zip(requests, limits, strict=False)):
        queues.add(size, Entry(NOW + slack, number, max(limit, size + 1)))
    decision = parse_policy(name, TABLE)(situation(queues, segments=segments, free_slots=free_slots))
    if decision is None:
        assert not any(queues[size] for size in range(1, LEAVES))
        return
    segment, entries = decision.segment, decision.entries
    assert segment in segments[segment.start]
    assert 1 <= len(entries) <= (4 if segment.start else min(4, free_slots))
    assert set(entries) <= set(queues[segment.start])
    assert all(entry.limit >= segment.stop for entry in entries)
    assert segment.start or all(entry.deadline >= NOW + BATCHING.expected(segment, len(entries)) for entry in entries)
