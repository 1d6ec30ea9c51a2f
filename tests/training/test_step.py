"""A step's loss is the same however it is computed."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch

from model_core.build import build_model
from model_core.grouped import HierarchicalEnsemble
from model_core.zoo import architecture
from training.averaging import WeightAverage
from training.config import TrainConfig
from training.losses import objective, prefix_sizes
from training.optimizer import sgd
from training.step import Computation, StepLoss

CPU = torch.device("cpu")


@pytest.fixture
def model() -> HierarchicalEnsemble:
    torch.manual_seed(0)
    return build_model(architecture("hne_tiny", branching=(1, 1, 2, 1, 2))).train()


@pytest.mark.parametrize("loss", ["i", "s", "boosted", "d", "hd"])
@pytest.mark.parametrize("mixed", [False, True], ids=["labels", "probabilities"])
def test_the_layout_of_a_gpu_does_not_change_it(loss: str, mixed: bool, model: HierarchicalEnsemble) -> None:
    config = TrainConfig.from_json(f'{{"loss": "{loss}", "precision": "float32", "label_smoothing": 0.1}}').resolved()
    images, labels = torch.randn(4, 3, 32, 32), torch.tensor([3, 1, 4, 1])
    targets = torch.nn.functional.one_hot(labels, 10) * 0.9 + 0.01 if mixed else labels
    other = deepcopy(model)
    plain = StepLoss(model, config, CPU, Computation())(images, targets)
    found = StepLoss(other, config, CPU, Computation(group_major=True))(images, targets)
    torch.testing.assert_close(found, plain)
    assert [*map(int, counts(other))] == [*map(int, counts(model))] == [1] * len(counts(model))


def test_the_layout_of_a_gpu_does_not_change_a_lesson(model: HierarchicalEnsemble) -> None:
    teacher = frozen(deepcopy(model), seed=1)
    config = TrainConfig(precision="float32").resolved()
    images, labels = torch.randn(4, 3, 32, 32), torch.tensor([3, 1, 4, 1])
    found = {}
    for taught in (None, teacher):
        plain = StepLoss(deepcopy(model), config, CPU, Computation(), taught)(images, labels)
        found[taught] = StepLoss(deepcopy(model), config, CPU, Computation(group_major=True), taught)(images, labels)
        torch.testing.assert_close(found[taught], plain)
    assert not found[teacher].isclose(found[None]), "it is heard"
    assert not any(counts(teacher)), "and learns nothing itself"


@pytest.mark.parametrize(
    ("settings", "arguments"),
    [
        ({}, {}),
        ({"loss": "i", "label_smoothing": 0.1}, {"label_smoothing": 0.1}),
        ({"alpha": 0.9}, {"alpha": 0.9}),
        ({"temperature": 3.0}, {"temperature": 3.0}),
        ({"student_temperature": 1.0}, {"student_temperature": 1.0}),
        ({"prefixes": "all"}, {"sizes": (1, 2, 3, 4)}),
        ({"teacher_weight": 0.9}, {"teacher_weight": 0.9}),
    ],
    ids=lambda value: "-".join(value) if isinstance(value, dict) else None,
)
def test_it_is_the_objective_under_the_settings(
    settings: dict[str, object], arguments: dict[str, object], model: HierarchicalEnsemble
) -> None:
    config = TrainConfig(**{"precision": "float32", **settings}).resolved()  # type: ignore[arg-type]
    images, labels = torch.randn(4, 3, 32, 32), torch.tensor([3, 1, 4, 1])
    teacher = frozen(deepcopy(model), seed=1) if "teacher_weight" in settings else None
    with torch.no_grad():
        logits = deepcopy(model)(images)
        lesson = None if teacher is None else teacher(images).mean(0)
    given = {"sizes": (1, 2, 4), "alpha": 0.5, "temperature": 2.0, "student_temperature": None} | arguments
    expected = objective(config.loss, logits, labels, teacher_bk=lesson, **given)  # type: ignore[arg-type]
    torch.testing.assert_close(StepLoss(model, config, CPU, Computation(), teacher)(images, labels), expected)


def frozen(model: HierarchicalEnsemble, *, seed: int) -> HierarchicalEnsemble:
    """As a teacher: with statistics of its own, and not to be trained."""
    draws = torch.Generator().manual_seed(seed)
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point():
            tensor.add_(torch.rand(tensor.shape, generator=draws), alpha=0.5 if name.endswith("var") else 0.05)
    return model.eval().requires_grad_(False)


def counts(model: HierarchicalEnsemble) -> list[torch.Tensor]:
    return [buffer for name, buffer in model.named_buffers() if name.endswith("num_batches_tracked")]


@pytest.mark.parametrize(
    ("compile_", "device", "expected"),
    [
        ("auto", "cpu", Computation()),
        ("on", "cpu", Computation(compiled=True)),
        ("auto", "cuda", Computation(compiled=True, group_major=True, graphs=True)),
        ("off", "cuda", Computation()),
    ],
)
def test_a_gpu_compiles_unless_told_otherwise(
    compile_: str, device: str, expected: Computation, model: HierarchicalEnsemble
) -> None:
    config = TrainConfig.from_json(f'{{"compile": "{compile_}"}}')
    assert Computation.chosen(config, model, torch.device(device)) == expected


def test_networks_of_other_layers_are_compiled_as_they_are() -> None:
    transformer = build_model(architecture("hne_transformer"))
    chosen = Computation.chosen(TrainConfig(), transformer, torch.device("cuda"))
    assert chosen == Computation(compiled=True)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_in_graphs_a_gpu_takes_the_same_steps(model: HierarchicalEnsemble) -> None:
    config = TrainConfig(lr=0.05, ema=0.5).resolved()
    device = torch.device("cuda")
    course: dict[bool, list[float]] = {}
    for compiled in (False, True):
        trained = deepcopy(model).to(device).to(memory_format=torch.channels_last)
        computation = Computation.chosen(config, trained, device) if compiled else Computation()
        teacher = frozen(deepcopy(model), seed=1).to(device).to(memory_format=torch.channels_last)
        loss = StepLoss(trained, config, device, computation, teacher)
        optimizer = sgd(trained, config, prefix_sizes(4))
        average = WeightAverage(trained, decay=config.ema, stored={})
        draws, total, course[compiled] = torch.Generator(device).manual_seed(0), torch.zeros((), device=device), []
        for step in range(8):
            images = torch.randn(16, 3, 32, 32, generator=draws, device=device)
            optimizer.zero_grad()
            found = loss(images, torch.arange(16, device=device) % 10)
            torch.autograd.backward(found)
            optimizer.step()
            average.update(step)
            total += found.detach()  # as the trainer adds them up
            course[compiled].append(total.item())
            if step == 4:  # evaluation in between
                with torch.inference_mode():
                    course[compiled].append(average.model.eval()(images).mean().item() + 1)
    assert course[True] == pytest.approx(course[False], rel=0.03)
