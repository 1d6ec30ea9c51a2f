"""What requests get of the engine: every refinement the model's, within their budgets, in shared steps."""

from collections.abc import Iterator
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np
import onnxruntime
import pytest

from model_core.package import EnsembleFigures, Package, Preprocessing
from model_core.tree import Segment
from service.engine import EngineSettings
from service.errors import BudgetError, DeadlineMissedError, QueueFullError, SettingsError
from service.policies import Anytime
from service.request import Budget, StopReason
from service.runners import Array
from service.runners.onnx import OnnxRunner
from service.scheduler import Decision, Situation
from tests.service.engines import Bench, MakeBench, images, seconds


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


def test_whose_slots_are_out_of_order_get_their_own(bench: Bench, package: Package) -> None:
    batch = images(4)
    tickets = []
    for image, slack in zip(batch, (10, 30, 20, 40), strict=True):  # in the order of urgency: slots 0, 2, 1, 3
        deadline = bench.clock.now + slack
        tickets.append(bench.engine.submit(image, Budget(deadline=deadline, max_ensemble_size=2), bench.listen))
        bench.engine.step()
    bench.run()
    assert bench.runner.batches == [(0, 1)] * 4 + [(1, 4)]
    *_, expected = islice(refine(package, batch), 2)
    for ticket, probabilities in zip(tickets, expected, strict=True):
        np.testing.assert_allclose(bench.last(ticket).probabilities, probabilities, atol=1e-5)


def test_only_time_in_which_somebody_waits_is_a_gap_between_steps(make: MakeBench) -> None:
    bench = make(max_batch=1)
    _, waiting, leaving = (bench.engine.submit(image, Budget(max_ensemble_size=1), bench.listen) for image in images(3))
    bench.engine.step()
    bench.clock.now += 0.25
    bench.engine.step()
    assert bench.metric("hne_step_gap_seconds_sum") == pytest.approx(0.25)
    assert bench.last(waiting).ensemble_size == 1
    bench.engine.cancel(leaving)
    bench.clock.now += 60
    for image in images(2):  # of which the next step takes one
        bench.engine.submit(image, Budget(max_ensemble_size=1), bench.listen)
    bench.engine.step()
    assert bench.metric("hne_step_gap_seconds_sum") == pytest.approx(0.25)


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
    sizes = []
    for image in (images(1)[0], np.full((3, 32, 32), 2.0, np.float32)):
        free = bench.engine.submit(image, Budget(), bench.listen)
        bench.run()
        tops = [float(refinement.probabilities.max()) for refinement in bench.refinements(free)]
        sizes.append(tops.index(max(tops)) + 1)
        ticket = bench.engine.submit(image, Budget(min_confidence=max(tops)), bench.listen)
        bench.run()
        assert (bench.last(ticket).ensemble_size, bench.last(ticket).stop_reason) == (sizes[-1], StopReason.CONFIDENCE)
    assert sizes == [1, 2], "or it would stop at the first whatever is asked"


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


def test_a_step_keeps_what_the_last_of_its_batch_to_stop_needs(make: MakeBench) -> None:
    def everyone(situation: Situation) -> Decision | None:
        size, queue = next(situation.queues.everyone(), (0, ()))
        return Decision(segment=Segment(size), entries=tuple(queue)) if queue else None

    bench = make(policy=everyone)
    for sizes in ((1, 1), (1, 2)):
        for image, size in zip(images(2), sizes, strict=True):
            bench.engine.submit(image, Budget(max_ensemble_size=size), bench.listen)
        bench.run()
    assert bench.runner.batches == [(0, 2), (0, 2), (1, 1)]
    assert bench.runner.until == [1, 2, 2]


def test_waiting_first_leaves_and_gaps_are_told_in_seconds(bench: Bench) -> None:
    bench.engine.submit(images(1)[0], Budget(max_ensemble_size=2), bench.listen)
    bench.clock.now += 0.25  # until the engine gets to it
    bench.engine.step()
    bench.clock.now += 0.5  # between two steps
    bench.engine.step()
    first = seconds(bench.tree, Segment(0), 1)
    for name, expected in (("queue_duration", 0.25), ("first_prediction", 0.25 + first), ("step_gap", 0.5)):
        assert bench.metric(f"hne_{name}_seconds_sum") == pytest.approx(expected)
        assert bench.metric(f"hne_{name}_seconds_count") == 1


def test_a_full_queue_says_when_its_backlog_is_served(make: MakeBench) -> None:
    bench = make(max_waiting=4, max_batch=2)
    for image in images(4):
        bench.engine.submit(image, Budget(), bench.listen)
    with pytest.raises(QueueFullError) as refused:
        bench.engine.submit(images(1)[0], Budget(), bench.listen)
    assert refused.value.retry_after == pytest.approx(2 * seconds(bench.tree, Segment(0), 2))
    bench.engine.step()
    bench.engine.submit(images(1)[0], Budget(), bench.listen)


def test_more_requests_than_slots_are_served_in_turn(make: MakeBench) -> None:
    bench = make(max_active=3)
    tickets = [bench.engine.submit(image, Budget(), bench.listen) for image in images(8)]
    bench.run()
    assert {bench.last(ticket).ensemble_size for ticket in tickets} == {16}
    assert max(size for _, size in bench.runner.batches) <= 3


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
    flops = count_costs(model).cumulative_flops
    package = export_package(
        model,
        tmp_path / "independent",
        name="independent",
        version="test",
        class_names=[str(index) for index in range(10)],
        preprocessing=Preprocessing(resize_to_cover=(32, 32), mean=(0, 0, 0), std=(1, 1, 1)),
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


def test_a_first_leaf_may_take_longer_than_refinements(bench: Bench) -> None:
    start, first = bench.clock.now, seconds(bench.tree, Segment(0), 1)
    budget = Budget(deadline=start + 2 * first, refine_by=start + first / 2)
    hurried = bench.engine.submit(images(1)[0], budget, bench.listen)
    bench.run()
    last = bench.last(hurried)
    assert (last.ensemble_size, last.stop_reason) == (1, StopReason.DEADLINE)
    assert last.ended_at == last.at == start + first


@pytest.mark.parametrize(("asked", "size"), [(None, 1), (1.0, 4), (0.999, 4)])
def test_a_policy_may_end_the_certain_who_do_not_say_what_is_enough(
    make: MakeBench, asked: float | None, size: int
) -> None:
    policy = Anytime(make().package.manifest.table)

    def impatient(situation: Situation) -> Decision | None:
        decision = policy(situation)
        return decision and replace(decision, enough=1e-6)

    bench = make(policy=impatient)
    ticket = bench.engine.submit(images(1)[0], Budget(max_ensemble_size=4, min_confidence=asked), bench.listen)
    bench.run()
    assert bench.last(ticket).ensemble_size == size
