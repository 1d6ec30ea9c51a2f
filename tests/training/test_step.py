"""A step's loss is the same however it is computed."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch

from model_core.build import build_model
from model_core.grouped import HierarchicalEnsemble
from model_core.zoo import architecture
from training.config import TrainConfig
from training.losses import prefix_sizes
from training.optimizer import sgd
from training.step import Computation, StepLoss

CPU = torch.device("cpu")


@pytest.fixture
def model() -> HierarchicalEnsemble:
    torch.manual_seed(0)
    return build_model(architecture("hne_tiny", branching=(1, 1, 2, 1, 2))).train()


@pytest.mark.parametrize("loss", ["i", "s", "hd"])
@pytest.mark.parametrize("mixed", [False, True], ids=["labels", "probabilities"])
def test_the_layout_of_a_gpu_does_not_change_it(loss: str, mixed: bool, model: HierarchicalEnsemble) -> None:
    config = TrainConfig.from_json(f'{{"loss": "{loss}", "precision": "float32"}}').resolved()
    images, labels = torch.randn(4, 3, 32, 32), torch.tensor([3, 1, 4, 1])
    targets = torch.nn.functional.one_hot(labels, 10) * 0.9 + 0.01 if mixed else labels
    other = deepcopy(model)
    plain = StepLoss(model, config, CPU, Computation())(images, targets)
    found = StepLoss(other, config, CPU, Computation(group_major=True))(images, targets)
    torch.testing.assert_close(found, plain)
    assert [*map(int, counts(other))] == [*map(int, counts(model))] == [1] * len(counts(model))


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
    assert (chosen.compiled, chosen.group_major) == (True, False)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
def test_in_graphs_a_gpu_takes_the_same_steps(model: HierarchicalEnsemble) -> None:
    config = TrainConfig(precision="float32", lr=0.05).resolved()
    device = torch.device("cuda")
    batches = [(torch.randn(8, 3, 32, 32, device=device), torch.randint(10, (8,), device=device)) for _ in range(6)]
    courses = []
    for computation in (Computation(), Computation.chosen(config, model, device)):
        trained = deepcopy(model).to(device)
        loss, optimizer = StepLoss(trained, config, device, computation), sgd(trained, config, prefix_sizes(4))
        course = torch.zeros((), device=device)
        losses = []
        for images, labels in batches:
            optimizer.zero_grad()
            step = loss(images, labels)
            step.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
            course += step.detach()  # as the trainer adds them up
            losses.append(course.item())
        courses.append(losses)
    assert courses[1] == pytest.approx(courses[0], rel=0.02)
