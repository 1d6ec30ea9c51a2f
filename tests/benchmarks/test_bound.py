"""The clairvoyant bound against everything that could be done, on instances small enough to try it all."""

from functools import cache
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.simulation.batches import best_batches
from benchmarks.simulation.bound import best_goodput, most_work
from benchmarks.simulation.load import Load
from benchmarks.simulation.machine import Machine
from model_core.tree import Segment, Tree

windows = st.lists(st.tuples(st.integers(0, 6), st.integers(1, 7)), min_size=1, max_size=4)
seconds = st.lists(st.integers(1, 5), min_size=3, max_size=3)
"""Of batches of 1, 2 and 3. A larger one may be faster: measured machines are so."""
alike = st.builds(
    lambda arrivals, slack: [(arrival, slack) for arrival in arrivals],
    st.lists(st.integers(0, 6), min_size=1, max_size=4),
    st.integers(1, 7),
)
"""With one slack for all, so that deadlines are in the order of arrival."""


def load_of(requests: list[tuple[int, int]]) -> Load:
    arrivals, slacks = np.array(sorted(requests), dtype=np.float64).T
    return Load(arrivals=arrivals, deadlines=arrivals + slacks)


def best_by_trying(machine: Machine, load: Load, accuracy: tuple[float, ...]) -> float:
    """The most expected right answers of any schedule: every segment, every batch, and waiting, at every instant."""
    arrivals, deadlines = load.arrivals.tolist(), load.deadlines.tolist()

    @cache
    def best(now: float, sizes: tuple[int, ...]) -> float:
        later = [arrival for arrival in arrivals if arrival > now]
        most = best(min(later), sizes) if later else 0.0
        for segment, taken in machine.seconds.items():
            able = [i for i, size in enumerate(sizes) if size == segment.start and arrivals[i] <= now]
            for count in range(1, min(len(able), machine.max_batch) + 1):
                end = now + taken[count]
                for batch in combinations(able, count):
                    after, gain = list(sizes), 0.0
                    for i in batch:
                        after[i] = segment.stop
                        if end <= deadlines[i]:
                            gain += accuracy[segment.stop] - accuracy[segment.start]
                    if gain > 0:
                        most = max(most, gain + best(end, tuple(after)))
        return most

    return best(0.0, (0,) * len(arrivals))


@settings(max_examples=300, deadline=None)
@given(windows | alike, seconds, seconds, seconds, st.tuples(st.floats(0.1, 0.8), st.floats(0, 0.2)))
def test_no_schedule_beats_the_bound(
    requests: list[tuple[int, int]], first: list[int], second: list[int], both: list[int], gains: tuple[float, float]
) -> None:
    timings = {Segment(0): first, Segment(1): second, Segment(0, 2): both}
    machine = Machine(name="tiny", tree=Tree((1, 2)), seconds={s: [0.0, *map(float, t)] for s, t in timings.items()})
    accuracy = (0.0, gains[0], gains[0] + gains[1])
    load = load_of(requests)
    found = best_by_trying(machine, load, accuracy) / len(requests)
    assert found <= best_goodput(machine, load, accuracy) + 1e-9


@given(windows, st.lists(st.integers(0, 4), min_size=4, max_size=4))
def test_the_most_work_is_the_least_cut(requests: list[tuple[int, int]], caps: list[int]) -> None:
    load = load_of(requests)
    limits = np.array(caps[: len(requests)], dtype=np.float64)
    cuts = []
    for count in range(len(requests) + 1):
        for chosen in combinations(range(len(requests)), count):
            covered = {
                second for i in chosen for second in range(int(load.arrivals[i]), int(load.deadlines[i]))
            }  # one processor does at most this for the chosen, and at most the caps of the others
            cuts.append(len(covered) + limits[[i for i in range(len(requests)) if i not in chosen]].sum())
    assert most_work(load, limits) == pytest.approx(min(cuts))


@settings(max_examples=200, deadline=None)
@given(windows | alike, seconds, st.sampled_from([0.0, 0.1, 0.4]))
def test_the_best_batches_are_found(requests: list[tuple[int, int]], taken: list[int], rent: float) -> None:
    load = load_of(requests)
    arrivals, deadlines = load.arrivals.tolist(), np.maximum.accumulate(load.deadlines).tolist()
    times = [0.0, *(float(min(taken[count:])) for count in range(len(taken)))]

    @cache
    def best(now: float, left: tuple[int, ...]) -> float:
        later = [arrivals[i] for i in left if arrivals[i] > now]
        most = best(min(later), left) if later else 0.0
        here = [i for i in left if arrivals[i] <= now]
        for count in range(1, min(len(here), len(taken)) + 1):
            end = now + times[count]
            for batch in combinations([i for i in here if deadlines[i] >= end], count):
                rest = tuple(i for i in left if i not in batch)
                most = max(most, count - rent * times[count] + best(end, rest))
        return most

    found = best(0.0, tuple(range(len(arrivals))))
    assert best_batches(load, times, worth=1.0, rent=rent) == pytest.approx(found)


def test_the_bound_knows_that_a_batch_waits_for_the_last_and_is_not_interrupted() -> None:
    both = {Segment(0): [0, 4, 4], Segment(1): [0, 9, 9], Segment(0, 2): [0, 9, 9]}
    machine = Machine(name="tiny", tree=Tree((1, 2)), seconds=both)
    for apart, served in ((1, 2), (2, 1), (3, 2)):  # together, one only, one after the other
        load = load_of([(0, 5), (apart, 5)])
        assert best_goodput(machine, load, (0.0, 0.6, 0.6)) == pytest.approx(0.6 * served / 2)


def test_the_bound_knows_that_work_on_first_leaves_is_not_left_for_others() -> None:
    machine = Machine(
        name="tiny",
        tree=Tree((1, 2)),
        seconds={Segment(0): [0, 2, 2], Segment(1): [0, 1, 2], Segment(0, 2): [0, 9, 9]},
    )
    accuracy = (0.0, 0.6, 0.8)
    # Too far apart for one batch: 2 + 2 of the 5 seconds in which somebody is there. 1 is left, for one of them.
    assert best_goodput(machine, load_of([(0, 3), (2, 3)]), accuracy) == pytest.approx((0.6 + 0.8) / 2)


def test_the_bound_is_reached_where_nothing_is_lost() -> None:
    machine = Machine(
        name="tiny",
        tree=Tree((1, 2)),
        seconds={Segment(0): [0, 2, 3], Segment(1): [0, 1, 1], Segment(0, 2): [0, 3, 4]},
    )
    accuracy = (0.0, 0.6, 0.8)
    assert best_goodput(machine, load_of([(0, 3)]), accuracy) == pytest.approx(0.8)
    assert best_goodput(machine, load_of([(0, 2)]), accuracy) == pytest.approx(0.6), "the second leaf does not fit"
    assert best_goodput(machine, load_of([(0, 1)]), accuracy) == 0
    assert best_goodput(machine, load_of([(0, 4), (0, 4)]), accuracy) == pytest.approx(0.8)
    assert best_goodput(machine, load_of([(0, 3), (0, 3)]), accuracy) == pytest.approx(0.6)
