"""The queues and the batches that can be taken from them."""

from hypothesis import given
from hypothesis import strategies as st

from model_core.tree import Segment
from service.scheduler import Entry, expired, largest_batch, seconds_until
from tests.service.situations import NOW, Linear, filled, machines, waiting_lists


@given(waiting_lists, machines, st.integers(1, 6))
def test_a_batch_makes_all_its_deadlines_and_none_larger_could(
    requests: list[tuple[int, float]], costs: Linear, limit: int
) -> None:
    queue, segment = filled(*((0, slack) for _, slack in requests))[0], Segment(0)
    batch = largest_batch(queue, lambda size: costs.expected(segment, size), NOW, limit)
    assert len(batch) <= limit
    assert all(entry.deadline >= NOW + costs.expected(segment, len(batch)) for entry in batch)
    for size in range(len(batch) + 1, limit + 1):
        assert sum(entry.deadline >= NOW + costs.expected(segment, size) for entry in queue) < size


@given(waiting_lists, machines, st.integers(1, 6), st.data())
def test_a_batch_with_a_given_member_makes_all_its_deadlines_too(
    requests: list[tuple[int, float]], costs: Linear, limit: int, data: st.DataObject
) -> None:
    queue, segment = filled((0, 9), *((0, slack) for _, slack in requests))[0], Segment(0)
    member = data.draw(st.sampled_from(queue))
    batch = largest_batch(queue, lambda size: costs.expected(segment, size), NOW, limit, member=member)
    assert (member in batch) == (member.deadline >= NOW + costs.expected(segment, 1))
    assert len(batch) <= limit
    assert len(set(batch)) == len(batch)
    assert set(batch) <= set(queue)
    assert all(entry.deadline >= NOW + costs.expected(segment, len(batch)) for entry in batch)


@given(waiting_lists, machines)
def test_only_who_cannot_take_the_next_step_alone_is_expired(requests: list[tuple[int, float]], costs: Linear) -> None:
    queues = filled(*requests)
    late = expired(queues, costs, NOW)
    for number, (size, slack) in enumerate(requests):
        assert (Entry(NOW + slack, number) in late) == (slack < costs.expected(Segment(size), 1))


def test_the_time_until_all_have_caught_up_counts_full_batches() -> None:
    costs = Linear(fixed=1, each=1)
    queues = filled((0, 9), (0, 9), (0, 9), (1, 9))
    first = 3 + 2  # two and one more in step 0
    assert seconds_until(queues, costs, 1, 2) == first
    assert seconds_until(queues, costs, 2, 2) == first + (3 + 3) / 2
    assert seconds_until(queues, costs, 1, 2, arriving=1) == 3 + 3
