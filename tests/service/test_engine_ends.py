"""How requests leave the engine: each once, whether they are cancelled, fail, are drained or come from many threads."""

import threading
import time
from collections.abc import Callable, Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model_core.package import Package
from model_core.tree import Segment
from service.engine import PAUSE, Engine, EngineSettings
from service.errors import DrainingError, RunnerError
from service.metrics import Recorder
from service.request import Budget, Failure, Refinement, StopReason, Ticket, Update
from service.runners.onnx import OnnxRunner
from service.scheduler import Decision, Situation
from tests.service.engines import Bench, MakeBench, images

PATIENCE = 30
"""Seconds for what takes milliseconds."""


def test_a_cancelled_request_leaves_its_slot_and_hears_nothing_more(make: MakeBench) -> None:
    bench = make(max_active=1)
    refining, waiting = (bench.engine.submit(image, Budget(), bench.listen) for image in images(2))
    bench.engine.step()
    bench.engine.cancel(refining)
    bench.engine.cancel(refining)
    bench.run()
    assert len(bench.heard[refining]) == 1
    assert bench.last(waiting).ensemble_size == 16


def test_a_request_cancelled_during_its_step_frees_the_slot_with_the_step(bench: Bench) -> None:
    ticket = bench.engine.submit(images(1)[0], Budget(), bench.listen)
    bench.runner.before = lambda segment: bench.engine.cancel(ticket)
    bench.engine.step()
    assert bench.engine.snapshot().active == 0
    assert ticket not in bench.heard


def test_a_step_that_fails_ends_its_batch_and_nothing_else(bench: Bench) -> None:
    def break_step(number: int) -> Callable[[Segment], None]:
        def before(segment: Segment) -> None:
            if segment.start == number:
                raise RunnerError(bench.package.step(number), "broken")

        return before

    bench.runner.before = break_step(3)
    ticket = bench.engine.submit(images(1)[0], Budget(), bench.listen)
    bench.run()
    assert (bench.last(ticket).ensemble_size, bench.last(ticket).stop_reason) == (3, StopReason.ERROR)
    bench.runner.before = break_step(0)
    ticket = bench.engine.submit(images(1)[0], Budget(), bench.listen)
    bench.run()
    assert str(bench.failure(ticket).error).endswith("00.onnx: broken")
    bench.runner.before = lambda segment: None
    ticket = bench.engine.submit(images(1)[0], Budget(), bench.listen)
    bench.run()
    assert bench.last(ticket).stop_reason is StopReason.COMPLETE
    assert bench.engine.snapshot().active == 0


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize("pixel", [np.nan, np.inf, 3e38])
def test_an_image_whose_logits_are_no_numbers_fails_alone(bench: Bench, pixel: float) -> None:
    broken = bench.engine.submit(np.full_like(images(1)[0], pixel), Budget(), bench.listen)
    ticket = bench.engine.submit(images(1)[0], Budget(), bench.listen)
    bench.run()
    assert str(bench.failure(broken).error).endswith("00.onnx: its logits are no numbers for an image")
    assert bench.last(ticket).stop_reason is StopReason.COMPLETE
    assert bench.engine.snapshot().active == 0


@pytest.mark.parametrize(
    ("fails", "seconds", "lost"),
    [("xxx", 1.0, True), ("xx.xx.", 1.0, False), ("xxxxx.", 0.1, False), ("xxx", 0.1, False)],
)
def test_an_engine_that_computes_nothing_any_more_ends(
    package: Package, fails: str, seconds: float, lost: bool
) -> None:
    bench, outcomes, ran = Bench(package, OnnxRunner(package)), iter(fails), threading.Event()

    def before(segment: Segment) -> None:
        ran.set()
        if next(outcomes, ".") == "x":
            bench.clock.now += seconds
            raise RuntimeError("CUDA error: an illegal memory access was encountered")

    def ask(budget: Budget) -> None:
        end = threading.Event()
        bench.engine.submit(images(1)[0], budget, lambda updates: end.set())
        assert end.wait(PATIENCE)

    bench.runner.before = before
    bench.engine.start()
    for _ in fails:
        ask(Budget(max_ensemble_size=1))
    if not lost:  # nor does it end long after, by what it tries for those that it refuses then
        bench.clock.now += 10.0
        ran.clear()
        for _ in range(2):
            ask(Budget(deadline=bench.clock.now + 1e-9))
        assert ran.wait(PATIENCE)
        ask(Budget(max_ensemble_size=1))
    if lost:
        assert bench.engine._thread is not None
        bench.engine._thread.join(PATIENCE)
        with pytest.raises(DrainingError):
            bench.engine.submit(images(1)[0], Budget(), bench.listen)
    assert (bench.engine.lost, bench.engine.draining) == (lost, lost)
    bench.engine.close()
    assert bench.engine.lost == lost, "one that was told to end is not lost"


def test_a_listener_that_fails_harms_nobody_else(bench: Bench) -> None:
    def broken(updates: Sequence[tuple[Ticket, Update]]) -> None:
        raise OSError("gone")

    bench.engine.submit(images(1)[0], Budget(), broken)
    ticket = bench.engine.submit(images(1)[0], Budget(), bench.listen)
    bench.run()
    assert bench.last(ticket).stop_reason is StopReason.COMPLETE


def test_draining_answers_everyone_with_what_they_have(bench: Bench) -> None:
    refined = bench.engine.submit(images(1)[0], Budget(), bench.listen)
    bench.engine.step()
    waiting = bench.engine.submit(images(1)[0], Budget(), bench.listen)
    bench.engine.drain(0)
    assert (bench.last(refined).ensemble_size, bench.last(refined).stop_reason) == (1, StopReason.DRAIN)
    assert isinstance(bench.failure(waiting).error, DrainingError)
    with pytest.raises(DrainingError):
        bench.engine.submit(images(1)[0], Budget(), bench.listen)
    assert bench.metric("hne_rejections_total", reason="draining") == 1, "the one that never started"
    assert (bench.engine.snapshot().draining, bench.engine.snapshot().active) == (True, 0)


requests = st.lists(
    st.fixed_dictionaries(
        {
            "steps_before": st.integers(0, 6),
            "slack": st.sampled_from([None, 0.001, 0.006, 0.02, 0.05]),
            "max_flops": st.sampled_from([None, 4_000_000, 9_000_000]),
            "max_ensemble_size": st.sampled_from([None, 1, 2, 7]),
            "min_confidence": st.sampled_from([None, 0.3]),
            "cancelled": st.booleans(),
        }
    ),
    max_size=14,
)


@settings(max_examples=40)
@given(requests)
def test_every_request_ends_exactly_once_within_its_budgets(make: MakeBench, plan: list[dict[str, object]]) -> None:
    bench = make(max_active=4, max_batch=3)
    budgets: dict[Ticket, Budget] = {}
    cancelled: set[Ticket] = set()
    for request in plan:
        for _ in range(request.pop("steps_before")):  # type: ignore[call-overload]
            bench.engine.step()
        slack, gone = request.pop("slack"), request.pop("cancelled")
        budget = Budget(deadline=None if slack is None else bench.clock.now + slack, **request)  # type: ignore[arg-type, operator]
        ticket = bench.engine.submit(images(1)[0], budget, bench.listen)
        budgets[ticket] = budget
        if gone:
            bench.engine.step()
            bench.engine.cancel(ticket)
            cancelled.add(ticket)
    bench.run()

    assert bench.engine.snapshot().active == bench.engine.snapshot().waiting == 0
    for ticket, budget in budgets.items():
        heard = bench.heard.get(ticket, [])
        ends = [update for update in heard if isinstance(update, Failure) or update.stop_reason is not None]
        assert len(ends) == 1 or (ticket in cancelled and not ends)
        assert ends == heard[-1:] or ticket in cancelled
        depths = [update.ensemble_size for update in heard if isinstance(update, Refinement)]
        assert depths[:-1] == list(range(1, len(depths)))
        for update in heard:
            assert budget.deadline is None or isinstance(update, Failure) or update.at <= budget.deadline + 1e-9
            assert isinstance(update, Failure) or update.flops <= (budget.max_flops or update.flops)
            assert isinstance(update, Failure) or update.ensemble_size <= (budget.max_ensemble_size or 16)


class Threaded:
    """An engine on its own thread and the real clock."""

    def __init__(self, bench: Bench, **options: object) -> None:
        runner = OnnxRunner(bench.package)
        recorder = Recorder(bench.package, type(bench.registry)())
        limits = EngineSettings(profile_seconds=0.01, max_batch=8)
        self.engine = Engine(bench.package, runner, settings=limits, recorder=recorder, **options)  # type: ignore[arg-type]
        self.ended: dict[Ticket, Update] = {}
        self.done = threading.Semaphore(0)
        self.engine.start()

    def listen(self, updates: Sequence[tuple[Ticket, Update]]) -> None:
        for ticket, update in updates:
            if isinstance(update, Failure) or update.stop_reason is not None:
                assert ticket not in self.ended
                self.ended[ticket] = update
                self.done.release()


def test_many_threads_submit_and_cancel_and_close_leaves_nothing_behind(bench: Bench) -> None:
    threaded = Threaded(bench)
    kept: list[Ticket] = []

    def client(seed: int) -> None:
        for number, image in enumerate(images(6, seed)):
            ticket = threaded.engine.submit(image, Budget(max_ensemble_size=4), threaded.listen)
            if number % 3 == 2:
                threaded.engine.cancel(ticket)
            else:
                kept.append(ticket)

    clients = [threading.Thread(target=client, args=(seed,)) for seed in range(4)]
    for thread in clients:
        thread.start()
    for thread in clients:
        thread.join()
    for _ in kept:
        assert threaded.done.acquire(timeout=30)
    assert set(kept) <= set(threaded.ended)
    threaded.engine.drain(30)
    threaded.engine.close()
    assert "hne-engine" not in [thread.name for thread in threading.enumerate()]
    assert (threaded.engine.snapshot().active, threaded.engine.snapshot().waiting) == (0, 0)


def test_draining_lets_the_active_finish_in_time(bench: Bench) -> None:
    threaded = Threaded(bench)
    tickets = [threaded.engine.submit(image, Budget(), threaded.listen) for image in images(3)]
    threaded.engine.drain(30)
    threaded.engine.close()
    ends = [threaded.ended[ticket] for ticket in tickets]
    assert [end.stop_reason for end in ends if isinstance(end, Refinement)] == [StopReason.COMPLETE] * 3


def test_a_policy_that_runs_nothing_is_not_asked_all_the_time(bench: Bench) -> None:
    asked = 0

    def idle(situation: Situation) -> Decision | None:
        nonlocal asked
        asked += 1
        return None

    threaded, seconds = Threaded(bench, policy=idle), 0.3
    ticket = threaded.engine.submit(images(1)[0], Budget(deadline=time.monotonic() + seconds), threaded.listen)
    assert threaded.done.acquire(timeout=30)
    threaded.engine.close()
    assert isinstance(threaded.ended[ticket], Failure)
    assert 1 <= asked <= 1 + seconds / PAUSE


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_if_the_thread_dies_nobody_is_left_waiting(bench: Bench) -> None:
    def faulty(situation: Situation) -> Decision | None:
        raise ZeroDivisionError

    threaded = Threaded(bench, policy=faulty)
    ticket = threaded.engine.submit(images(1)[0], Budget(), threaded.listen)
    assert threaded.done.acquire(timeout=30)
    assert isinstance(threaded.ended[ticket], Failure)
    with pytest.raises(DrainingError):
        threaded.engine.submit(images(1)[0], Budget(), threaded.listen)
    threaded.engine.close()
