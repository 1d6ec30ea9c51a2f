"""A step that was refused is measured again at idle: a machine's bad moment does not shut tight deadlines out."""

import time
from contextlib import closing

import pytest

from model_core.tree import Segment
from service.errors import DeadlineMissedError, RunnerError
from service.profile import WINDOW, Profile, Shape
from service.request import Budget, Failure, Refinement, StopReason, Update
from tests.service.engines import Bench, MakeBench, images, seconds
from tests.service.test_engine_ends import Threaded

STALL = 0.05
PATIENCE = 60
"""Real seconds after which a test gives up."""


def stalled(bench: Bench, step: int, times: int) -> None:
    """The machine stalls in a step so many times, and recovers."""

    def before(segment: Segment) -> None:
        if segment.start == step:
            bench.clock.now += STALL

    bench.runner.before = before
    for _ in range(times):
        bench.engine.submit(images(1)[0], Budget(max_ensemble_size=step + 1), bench.listen)
        bench.run()
    bench.runner.before = lambda segment: None


def refusals(bench: Bench, slack: float, wanted: int) -> int:
    """How many requests with so much slack, one at a time, get less than `wanted` leaves before one gets them."""
    for count in range(2 * WINDOW):
        ticket = bench.engine.submit(images(1)[0], Budget(deadline=bench.clock.now + slack), bench.listen)
        while bench.engine.step() or bench.engine.probe():
            pass
        end = bench.heard[ticket][-1]
        if isinstance(end, Refinement) and end.ensemble_size >= wanted:
            return count
    raise AssertionError(f"nobody got {wanted} leaves in {slack} s")


def refuse_twice(bench: Bench) -> None:
    """Two requests that are due before the first step could end."""
    for image in images(2):
        ticket = bench.engine.submit(image, Budget(deadline=bench.clock.now + 1e-6), bench.listen)
        assert not bench.engine.step()
        assert isinstance(bench.failure(ticket).error, DeadlineMissedError)


@pytest.mark.parametrize("step", [0, 1])
def test_tight_deadlines_are_served_again_after_stalls(make: MakeBench, step: int) -> None:
    bench = make()
    slack = 1.2 * sum(seconds(bench.tree, Segment(leaf), 1) for leaf in range(step + 1))
    assert refusals(bench, slack, step + 1) == 0
    stalled(bench, step, 60)  # one stall moves the expectation by a fortieth at most
    assert 0 < refusals(bench, slack, step + 1) <= WINDOW + 1
    assert refusals(bench, slack, step + 1) == 0, "and stays so"


def test_a_probe_belongs_to_nobody_and_comes_after_everybody(bench: Bench) -> None:
    refuse_twice(bench)
    served = bench.engine.submit(images(1)[0], Budget(max_ensemble_size=2), bench.listen)
    assert not bench.engine.probe(), "somebody waits"
    bench.engine.cancel(served)
    assert bench.engine.probe()
    assert bench.runner.batches == [(0, 1)]
    assert not bench.engine.probe(), "once for each time it was refused"
    assert bench.metric("hne_step_batch_size_count") == 0


def test_what_has_run_since_needs_no_probe(bench: Bench) -> None:
    refuse_twice(bench)
    served = bench.engine.submit(images(1)[0], Budget(max_ensemble_size=2), bench.listen)
    bench.run()
    assert bench.last(served).stop_reason is StopReason.ENSEMBLE_SIZE
    for _ in range(5):  # the usual end of a deadline
        three = sum(seconds(bench.tree, Segment(leaf), 1) for leaf in range(3))
        bench.engine.submit(images(1)[0], Budget(deadline=bench.clock.now + three + 1e-6), bench.listen)
        bench.run()
        assert not bench.engine.probe()


def test_a_probe_that_fails_is_harmless(bench: Bench) -> None:
    def broken(segment: Segment) -> None:
        raise RunnerError(bench.package.step(segment.start), "broken")

    refuse_twice(bench)
    bench.runner.before = broken
    expected = bench.engine.snapshot().profile[0].expected
    assert bench.engine.probe()
    assert bench.engine.snapshot().profile[0].expected == expected
    assert not bench.engine.probe()


def test_the_engines_thread_probes_by_itself(bench: Bench) -> None:
    blocks = {bench.tree.entry_block(leaf) for leaf in range(bench.tree.leaves)}
    slow = Profile(bench.tree, {Shape(block, 1): {1: [100.0]} for block in blocks}, max_batch=8)
    threaded = Threaded(bench, profile=slow)

    def answer() -> Update:
        budget = Budget(deadline=threaded.engine.clock() + 20, max_ensemble_size=1)
        ticket = threaded.engine.submit(images(1)[0], budget, threaded.listen)
        assert threaded.done.acquire(timeout=30)
        return threaded.ended[ticket]

    with closing(threaded.engine):
        assert isinstance(answer(), Failure), "by the profile a first leaf takes too long"
        give_up = time.monotonic() + PATIENCE
        while isinstance(answer(), Failure):
            assert time.monotonic() < give_up, "nobody was ever served"
