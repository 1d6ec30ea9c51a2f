import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model_core.package import EnsembleFigures, Package, Preprocessing
from model_core.tree import Segment
from service.engine import Engine, EngineSettings
from service.errors import (
    BudgetError,
    DeadlineMissedError,
    DrainingError,
    QueueFullError,
    RunnerError,
    SettingsError,
)
from service.metrics import Recorder
from service.request import Budget, Failure, Refinement, StopReason, Ticket, Update
from service.runners import Array
from service.runners.onnx import OnnxRunner
from service.scheduler import Decision, Situation
from tests.service.engines import Bench, images, seconds

MakeBench = Callable[..., Bench]


@pytest.fixture(scope="module")
def package(tiny_package: Path) -> Package:
    return Package.load(tiny_package)


@pytest.fixture(scope="module")
def make(package: Package) -> MakeBench:
    runner = OnnxRunner(package)
    return lambda **options: Bench(package, runner, **options)


@pytest.fixture
def bench(make: MakeBench) -> Bench:
    return make()


def refine(package: Package, batch: Array) -> Iterator[Array]:
    """Calibrated probabilities (B, K) at every ensemble size, by a plain loop over the package's graphs."""
    tree, total = package.manifest.spec.tree, np.float32(0)
    activations: dict[int, Array] = {}
    for leaf, row in enumerate(package.manifest.table):
        session = onnxruntime.InferenceSession(package.step(leaf), providers=["CPUExecutionProvider"])
        entry = tree.entry_node(leaf)
        logits, *kept = session.run(None, {"x": batch if entry is None else activations[entry.block]})
        activations |= zip(tree.kept_blocks(Segment(leaf)), kept, strict=True)
        total = total + logits
        scaled = np.exp(total / (leaf + 1) / row.temperature)
        yield scaled / scaled.sum(axis=1, keepdims=True)


def test_every_refinement_is_the_models_whenever_its_request_arrived(bench: Bench, package: Package) -> None:
    batch = images(5)
    tickets = [bench.engine.submit(image, Budget(), bench.listen) for image in batch[:2]]
    for image in batch[2:]:
        bench.engine.step()
        bench.engine.step()
        tickets.append(bench.engine.submit(image, Budget(), bench.listen))
    bench.run()
    assert max(size for _, size in bench.runner.batches) == 5, "late requests catch up and share batches"
    for size, expected in enumerate(refine(package, batch), start=1):
        for ticket, probabilities in zip(tickets, expected, strict=True):
            refinement = bench.refinements(ticket)[size - 1]
            assert (refinement.ensemble_size, refinement.flops) == (size, package.manifest.cumulative_flops[size])
            np.testing.assert_allclose(refinement.probabilities, probabilities, atol=1e-5)
    assert [bench.last(ticket).stop_reason for ticket in tickets] == [StopReason.COMPLETE] * 5


def test_flops_are_never_exceeded_and_used_as_far_as_they_go(bench: Bench) -> None:
    flops = bench.package.manifest.cumulative_flops
    budgets = {size: (flops[size], flops[size + 1] - 1) for size in range(1, 16)}
    tickets = {
        (size, budget): bench.engine.submit(images(1)[0], Budget(max_flops=budget), bench.listen)
        for size, pair in budgets.items()
        for budget in pair
    }
    bench.run()
    for (size, budget), ticket in tickets.items():
        last = bench.last(ticket)
        assert (last.ensemble_size, last.stop_reason) == (size, StopReason.FLOPS)
        assert last.flops <= budget


def test_the_tightest_budget_names_the_reason(bench: Bench) -> None:
    flops = bench.package.manifest.cumulative_flops
    cases = [
        (Budget(max_ensemble_size=3, max_flops=flops[5]), 3, StopReason.ENSEMBLE_SIZE),
        (Budget(max_ensemble_size=5, max_flops=flops[4]), 4, StopReason.FLOPS),
        (Budget(max_ensemble_size=99, max_flops=flops[16]), 16, StopReason.COMPLETE),
        (Budget(max_ensemble_size=1), 1, StopReason.ENSEMBLE_SIZE),
    ]
    tickets = [bench.engine.submit(images(1)[0], budget, bench.listen) for budget, _, _ in cases]
    bench.run()
    found = [(bench.last(ticket).ensemble_size, bench.last(ticket).stop_reason) for ticket in tickets]
    assert found == [(size, reason) for _, size, reason in cases]


def test_confidence_stops_at_the_first_size_that_has_it(bench: Bench) -> None:
    free = bench.engine.submit(images(1)[0], Budget(), bench.listen)
    bench.run()
    tops = [float(refinement.probabilities.max()) for refinement in bench.refinements(free)]
    wanted = max(tops)
    ticket = bench.engine.submit(images(1)[0], Budget(min_confidence=wanted), bench.listen)
    bench.run()
    assert bench.last(ticket).ensemble_size == tops.index(wanted) + 1
    assert bench.last(ticket).stop_reason in {StopReason.CONFIDENCE, StopReason.COMPLETE}


@pytest.mark.parametrize(
    "budget",
    [Budget(max_flops=10), Budget(max_ensemble_size=0), Budget(min_confidence=0.0), Budget(min_confidence=1.5)],
)
def test_budgets_that_nobody_can_spend_are_refused(bench: Bench, budget: Budget) -> None:
    with pytest.raises(BudgetError):
        bench.engine.submit(images(1)[0], budget, bench.listen)
    assert not bench.engine.step()


def test_a_deadline_is_used_as_far_as_steps_fit_and_never_broken(bench: Bench) -> None:
    tree, start = bench.tree, bench.clock.now
    four = sum(seconds(tree, Segment(leaf), 1) for leaf in range(4))
    ticket = bench.engine.submit(images(1)[0], Budget(deadline=start + four + 1e-6), bench.listen)
    bench.run()
    last = bench.last(ticket)
    assert (last.ensemble_size, last.stop_reason) == (4, StopReason.DEADLINE)
    assert last.at <= start + four + 1e-6
    assert (last.started_at, last.first_at) == (start, start + seconds(tree, Segment(0), 1))


def test_without_time_for_one_leaf_no_work_is_spent(bench: Bench) -> None:
    ticket = bench.engine.submit(images(1)[0], Budget(deadline=bench.clock.now + 0.001), bench.listen)
    bench.run()
    assert isinstance(bench.failure(ticket).error, DeadlineMissedError)
    assert bench.runner.batches == []
    assert bench.metric("hne_rejections_total", reason="deadline") == 1


def test_who_cannot_go_on_keeps_its_leaf(bench: Bench) -> None:
    """Others' first answers take the time that its second leaf needed."""
    first = seconds(bench.tree, Segment(0), 1)
    hurried = bench.engine.submit(images(1)[0], Budget(deadline=bench.clock.now + 2 * first), bench.listen)
    bench.engine.step()
    bench.engine.submit(images(1)[0], Budget(), bench.listen)
    bench.run()
    assert [refinement.ensemble_size for refinement in bench.refinements(hurried)] == [1, 1]
    assert bench.last(hurried).stop_reason is StopReason.DEADLINE


def test_requests_share_steps_and_one_call_tells_a_listener_all(bench: Bench) -> None:
    for image in images(32):
        bench.engine.submit(image, Budget(), bench.listen)
    bench.run()
    assert bench.runner.batches == [(leaf, 32) for leaf in range(16)]
    assert bench.calls == 16
    assert bench.metric("hne_step_batch_size_sum") / bench.metric("hne_step_batch_size_count") == 32


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


def test_a_listener_that_fails_harms_nobody_else(bench: Bench) -> None:
    def broken(updates: Sequence[tuple[Ticket, Update]]) -> None:
        raise OSError("gone")

    bench.engine.submit(images(1)[0], Budget(), broken)
    ticket = bench.engine.submit(images(1)[0], Budget(), bench.listen)
    bench.run()
    assert bench.last(ticket).stop_reason is StopReason.COMPLETE


def test_a_full_queue_says_when_its_backlog_is_served(make: MakeBench) -> None:
    bench = make(max_waiting=4, max_batch=2)
    for image in images(4):
        bench.engine.submit(image, Budget(), bench.listen)
    with pytest.raises(QueueFullError) as refused:
        bench.engine.submit(images(1)[0], Budget(), bench.listen)
    assert refused.value.retry_after == pytest.approx(2 * seconds(bench.tree, Segment(0), 2))
    bench.engine.step()
    bench.engine.submit(images(1)[0], Budget(), bench.listen)
    assert bench.metric("hne_rejections_total", reason="queue_full") == 1


def test_more_requests_than_slots_are_served_in_turn(make: MakeBench) -> None:
    bench = make(max_active=3)
    tickets = [bench.engine.submit(image, Budget(), bench.listen) for image in images(8)]
    bench.run()
    assert {bench.last(ticket).ensemble_size for ticket in tickets} == {16}
    assert max(size for _, size in bench.runner.batches) <= 3


def test_draining_answers_everyone_with_what_they_have(bench: Bench) -> None:
    refined = bench.engine.submit(images(1)[0], Budget(), bench.listen)
    bench.engine.step()
    waiting = bench.engine.submit(images(1)[0], Budget(), bench.listen)
    bench.engine.drain(0)
    assert (bench.last(refined).ensemble_size, bench.last(refined).stop_reason) == (1, StopReason.DRAIN)
    assert isinstance(bench.failure(waiting).error, DrainingError)
    with pytest.raises(DrainingError):
        bench.engine.submit(images(1)[0], Budget(), bench.listen)
    assert (bench.engine.snapshot().draining, bench.engine.snapshot().active) == (True, 0)


def test_the_allowed_ensemble_size_falls_with_the_load_and_comes_back(bench: Bench) -> None:
    assert bench.engine.snapshot().ensemble_size_allowed == 16
    for image in images(10):
        bench.engine.submit(image, Budget(), bench.listen)
    assert 1 <= bench.metric("hne_ensemble_size_allowed") < 16
    for image in images(100):
        bench.engine.submit(image, Budget(), bench.listen)
    assert bench.metric("hne_ensemble_size_allowed") == 0
    bench.run()
    assert bench.metric("hne_ensemble_size_allowed") == 16


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(SettingsError, match="max_batch must be positive, got 0"):
        EngineSettings(max_batch=0)


def test_independent_networks_read_the_image_again(tmp_path: Path) -> None:
    import torch

    from model_core.costs import count_costs
    from model_core.spec import Row
    from tests.models import calibrated_model
    from training.export import export_package

    rows = ((Row("conv3x3", 4, 1, 8),), (Row("resnet+branching", 2, 1, 8), Row("classifier", 1, 1, 0)))
    model = calibrated_model("hne_tiny", branching=(2, 1), rows=rows)
    flops = count_costs(model.spec).cumulative_flops
    package = export_package(
        model,
        tmp_path / "independent",
        name="independent",
        version="test",
        class_names=[str(index) for index in range(10)],
        preprocessing=Preprocessing(resize_shorter_side=32, mean=(0, 0, 0), std=(1, 1, 1)),
        table=[
            EnsembleFigures(ensemble_size=size, flops=flops[size], accuracy=0.5, nll=1, ece=0, temperature=1)
            for size in (1, 2)
        ],
        evaluated_on="nothing",
        training={},
        images=torch.from_numpy(images(2)),
    )
    bench = Bench(package, OnnxRunner(package))
    batch = images(3)
    tickets = [bench.engine.submit(image, Budget(), bench.listen) for image in batch]
    bench.run()
    for size, expected in enumerate(refine(package, batch)):
        for ticket, probabilities in zip(tickets, expected, strict=True):
            np.testing.assert_allclose(bench.refinements(ticket)[size].probabilities, probabilities, atol=1e-5)


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
