"""Who is let in, and before whom, when there is not enough for all."""

import pytest

from model_core.tree import Segment
from service.errors import DeadlineMissedError, QueueFullError
from service.request import Budget, Priority, Ticket
from tests.service.engines import Bench, MakeBench, images, seconds

IMAGE = images(1)[0]


def submit(bench: Bench, *, slack: float = 10.0, priority: Priority = Priority.NORMAL) -> Ticket:
    budget = Budget(deadline=bench.clock.now + slack, max_ensemble_size=1, priority=priority)
    return bench.engine.submit(IMAGE, budget, bench.listen)


def served(bench: Bench) -> list[Ticket]:
    """Who has a leaf, in the order of getting it."""
    return [ticket for ticket, updates in bench.heard.items() if not hasattr(updates[0], "error")]


def test_who_cannot_make_it_behind_those_that_wait_is_told_at_once(bench: Bench) -> None:
    slack = 4.5 * seconds(bench.tree, Segment(0), 1)
    tickets = [submit(bench, slack=slack) for _ in range(6)]
    for late in tickets[4:]:
        assert isinstance(bench.failure(late).error, DeadlineMissedError)
    assert bench.metric("hne_rejections_total", reason="deadline") == 2
    bench.run()
    assert sorted(ticket.number for ticket in served(bench)) == [0, 1, 2, 3]


def test_who_comes_while_a_batch_is_computed_waits_for_its_end(bench: Bench) -> None:
    first = seconds(bench.tree, Segment(0), 1)
    told_at_once: dict[float, bool] = {}

    def come(segment: Segment) -> None:
        if not told_at_once:
            told_at_once.update({slack: submit(bench, slack=slack * first) in bench.heard for slack in (1.9, 2.1)})

    bench.runner.before = come
    submit(bench)
    bench.run()
    assert told_at_once == {1.9: True, 2.1: False}, "the first cannot have a leaf in time"


def test_who_waits_less_urgently_does_not_count(bench: Bench) -> None:
    for _ in range(20):
        submit(bench, slack=4.0)
    urgent = submit(bench, slack=1.5 * seconds(bench.tree, Segment(0), 1))
    assert urgent not in bench.heard
    bench.run()
    assert served(bench)[0] == urgent


def test_a_higher_priority_gets_its_first_leaf_first_however_urgent_the_others(make: MakeBench) -> None:
    bench = make(max_batch=2)
    for slack in (1.0, 2.0, 3.0):
        submit(bench, slack=slack)
    low, high = submit(bench, slack=0.5, priority=Priority.LOW), submit(bench, priority=Priority.HIGH)
    bench.run()
    assert served(bench)[0] == high
    assert served(bench)[-1] == low


def test_in_a_full_queue_a_higher_priority_takes_the_place_of_the_least_urgent(make: MakeBench) -> None:
    bench = make(max_waiting=3)
    submit(bench)
    urgent_low, patient_low = (submit(bench, slack=slack, priority=Priority.LOW) for slack in (1.0, 5.0))
    with pytest.raises(QueueFullError):
        submit(bench, priority=Priority.LOW)
    normal = submit(bench)
    assert isinstance(bench.failure(patient_low).error, QueueFullError)
    submit(bench, priority=Priority.HIGH)
    assert isinstance(bench.failure(urgent_low).error, QueueFullError)
    for _ in range(2):
        submit(bench, priority=Priority.HIGH)
    with pytest.raises(QueueFullError):
        submit(bench, priority=Priority.HIGH)
    assert isinstance(bench.failure(normal).error, QueueFullError), "the later of two alike"
    bench.run()
    assert len(served(bench)) == 3
    assert bench.metric("hne_rejections_total", reason="queue_full") == 4


def test_a_patient_load_that_finds_no_place_gets_fewer_networks_and_then_finds_one(make: MakeBench) -> None:
    bench = make(max_active=8, max_waiting=8, max_batch=4)
    due, refused = bench.clock.now, []
    for _ in range(1500):
        while bench.clock.now < due:
            if not bench.engine.step():
                bench.clock.now = due
        due += 2 * seconds(bench.tree, Segment(0), 1)  # a third of what all networks take
        try:
            bench.engine.submit(IMAGE, Budget(deadline=bench.clock.now + 1e4), bench.listen)
        except QueueFullError:
            refused.append(due)
    bench.run()
    assert refused, "it cannot know at first"
    assert len(refused) < 0.03 * 1500
    sizes = [last.ensemble_size for last in map(bench.last, served(bench))]
    assert 2 < sum(sizes) / len(sizes) < 10


def test_who_cannot_make_it_takes_nobodys_place(make: MakeBench) -> None:
    bench = make(max_waiting=1)
    low = submit(bench, priority=Priority.LOW)
    hopeless = submit(bench, slack=0.5 * seconds(bench.tree, Segment(0), 1), priority=Priority.HIGH)
    assert isinstance(bench.failure(hopeless).error, DeadlineMissedError)
    bench.run()
    assert served(bench) == [low]


def test_refinements_go_on_by_what_they_gain_whatever_the_priority(bench: Bench) -> None:
    tickets = [
        bench.engine.submit(IMAGE, Budget(priority=priority), bench.listen)
        for priority in (Priority.LOW, Priority.HIGH)
    ]
    bench.run()
    assert [bench.last(ticket).ensemble_size for ticket in tickets] == [16, 16]
    assert bench.runner.batches[2:] == [(leaf, 2) for leaf in range(1, 16)]
