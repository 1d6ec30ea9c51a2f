"""The losses against the paper's equations, written out as loops over numbers."""

from __future__ import annotations

import math
from functools import partial

import pytest
import torch

from training.config import LossName
from training.losses import (
    boosted,
    distillation,
    hierarchical_distillation,
    independent,
    objective,
    prefix_sizes,
    soft_labels,
    structured,
)

LEAVES, BATCH, CLASSES = 4, 3, 5
SIZES = (1, 2, 4)
T = 2.0


@pytest.fixture
def logits() -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(LEAVES, BATCH, CLASSES, generator=generator, dtype=torch.double, requires_grad=True)


@pytest.fixture
def targets() -> torch.Tensor:
    return torch.tensor([0, 3, 1])


def own_labels(logits: torch.Tensor) -> torch.Tensor:
    return soft_labels(logits, temperature=T)


def eq_6(logits: torch.Tensor, sizes: tuple[int, ...] = SIZES) -> torch.Tensor:
    return hierarchical_distillation(logits, own_labels(logits), sizes=sizes, temperature=T)


def softmax(values: list[float], temperature: float = 1.0) -> list[float]:
    exponentials = [math.exp(value / temperature) for value in values]
    return [value / sum(exponentials) for value in exponentials]


def mean_of_first(logits: list[list[list[float]]], count: int, image: int) -> list[float]:
    """y of Eq. 1 for one image."""
    return [sum(logits[leaf][image][k] for leaf in range(count)) / count for k in range(CLASSES)]


def soft(student: list[float], teacher: list[float]) -> float:
    labels, predicted = softmax(teacher, T), softmax(student, T)
    return -(T**2) * sum(label * math.log(value) for label, value in zip(labels, predicted, strict=True))


def test_independent_is_equation_3(logits: torch.Tensor, targets: torch.Tensor) -> None:
    values = logits.tolist()
    expected = sum(-math.log(softmax(values[n][m])[targets[m]]) for n in range(LEAVES) for m in range(BATCH)) / BATCH
    assert independent(logits, targets).item() == pytest.approx(expected)


def test_structured_is_equation_4(logits: torch.Tensor, targets: torch.Tensor) -> None:
    values = logits.tolist()
    expected = (
        sum(-math.log(softmax(mean_of_first(values, 2**b, m))[targets[m]]) for b in (0, 1, 2) for m in range(BATCH))
        / BATCH
    )
    assert structured(logits, targets, sizes=SIZES).item() == pytest.approx(expected)


def test_distillation_is_equation_5(logits: torch.Tensor) -> None:
    values = logits.tolist()
    expected = (
        sum(soft(values[n][m], mean_of_first(values, LEAVES, m)) for n in range(LEAVES) for m in range(BATCH)) / BATCH
    )
    assert distillation(logits, own_labels(logits), temperature=T).item() == pytest.approx(expected)


def test_hierarchical_distillation_is_equation_6_without_the_teacher_itself(logits: torch.Tensor) -> None:
    values = logits.tolist()
    expected = (
        sum(
            soft(mean_of_first(values, 2**b, m), mean_of_first(values, LEAVES, m)) for b in (0, 1) for m in range(BATCH)
        )
        / BATCH
    )
    assert eq_6(logits).item() == pytest.approx(expected)


def test_the_teacher_gets_no_gradient(logits: torch.Tensor) -> None:
    # The last two leaves are in no smaller nested ensemble: they are in Eq. 6 through the teacher only.
    eq_6(logits).backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None
    assert logits.grad[2:].abs().max() == 0
    assert logits.grad[:2].abs().min() > 0


def test_distillation_treats_the_soft_labels_as_constants(logits: torch.Tensor) -> None:
    distillation(logits, own_labels(logits), temperature=T).backward()  # type: ignore[no-untyped-call]
    teacher = torch.softmax(logits.detach().mean(0) / T, -1)
    # d/dz of T^2 H(p, softmax(z / T)) is T (softmax(z / T) - p), if p does not depend on z.
    expected = T * (torch.softmax(logits.detach() / T, -1) - teacher) / BATCH
    torch.testing.assert_close(logits.grad, expected)


def test_alpha_mixes_cross_entropy_and_distillation(logits: torch.Tensor, targets: torch.Tensor) -> None:
    def total(alpha: float) -> float:
        return objective("hd", logits, targets, sizes=SIZES, alpha=alpha, temperature=T).item()

    assert total(0) == pytest.approx(independent(logits, targets).item())
    assert total(1) == pytest.approx(eq_6(logits).item())
    assert total(0.3) == pytest.approx(0.7 * total(0) + 0.3 * total(1))


@pytest.mark.parametrize("name", ["d", "hd"])
def test_a_student_temperature_of_1_is_the_equations_to_the_letter(
    name: LossName, logits: torch.Tensor, targets: torch.Tensor
) -> None:
    students = [2**b for b in (0, 1)] if name == "hd" else None
    values = logits.tolist()
    expected = 0.0
    for m in range(BATCH):
        labels = softmax(mean_of_first(values, LEAVES, m), T)
        outputs = [mean_of_first(values, n, m) for n in students] if students else [values[n][m] for n in range(LEAVES)]
        for output in outputs:
            expected -= sum(label * math.log(p) for label, p in zip(labels, softmax(output), strict=True)) / BATCH
    loss = partial(objective, name, logits, targets, sizes=SIZES, alpha=1.0, temperature=T)
    assert loss(student_temperature=1.0).item() == pytest.approx(expected)
    assert loss(student_temperature=T).equal(loss())


def test_a_single_network_has_nothing_to_distil(logits: torch.Tensor, targets: torch.Tensor) -> None:
    total = objective("hd", logits[:1], targets, sizes=(1,), alpha=0.5, temperature=T)
    assert total.item() == pytest.approx(0.5 * independent(logits[:1], targets).item())


def test_the_other_objectives_are_their_equations(logits: torch.Tensor, targets: torch.Tensor) -> None:
    mix = partial(objective, sizes=SIZES, alpha=0.25, temperature=T)
    assert mix("i", logits, targets).equal(independent(logits, targets))
    assert mix("s", logits, targets).equal(structured(logits, targets, sizes=SIZES))
    mixed = 0.75 * independent(logits, targets) + 0.25 * distillation(logits, own_labels(logits), temperature=T)
    torch.testing.assert_close(mix("d", logits, targets), mixed)


def gradient(loss: torch.Tensor, logits: torch.Tensor) -> torch.Tensor:
    (result,) = torch.autograd.grad(loss, logits)
    return result


def test_nested_ensembles_are_powers_of_two_in_any_tree() -> None:
    assert prefix_sizes(16) == (1, 2, 4, 8, 16)
    assert prefix_sizes(6) == (1, 2, 4, 6)
    assert prefix_sizes(1) == (1,)
    assert prefix_sizes(4, "all") == (1, 2, 3, 4)
    assert prefix_sizes(16, "first") == (1, 16)
    assert prefix_sizes(1, "first") == (1,)


def test_distilling_other_prefixes_keeps_the_weight_of_equation_6(logits: torch.Tensor) -> None:
    one, two, three = (eq_6(logits[:, :, :], sizes=(size, LEAVES)).item() / 2 for size in (1, 2, 3))
    assert eq_6(logits).item() == pytest.approx(one + two)
    assert eq_6(logits, sizes=prefix_sizes(LEAVES, "all")).item() == pytest.approx((one + two + three) * 2 / 3)
    assert eq_6(logits, sizes=prefix_sizes(LEAVES, "first")).item() == pytest.approx(2 * one)


def test_boosting_trains_each_network_on_the_residual_of_the_ensemble_that_it_joins(
    logits: torch.Tensor, targets: torch.Tensor
) -> None:
    found = gradient(boosted(logits, targets, sizes=SIZES), logits)
    label = torch.nn.functional.one_hot(targets, CLASSES)
    for leaf, size in enumerate((1, 2, 4, 4)):
        residual = torch.softmax(logits[:size].mean(0), -1) - label
        torch.testing.assert_close(found[leaf], residual / BATCH)


def test_another_teacher_shares_the_soft_labels(logits: torch.Tensor) -> None:
    teacher = torch.randn(BATCH, CLASSES, dtype=torch.double)
    labels = soft_labels(logits, temperature=T, teacher_bk=teacher, teacher_weight=0.25)
    torch.testing.assert_close(labels, 0.75 * own_labels(logits) + 0.25 * torch.softmax(teacher / T, -1))
    assert soft_labels(logits, temperature=T, teacher_bk=teacher, teacher_weight=0.0).equal(own_labels(logits))


@pytest.mark.parametrize("name", ["i", "s", "d", "hd", "boosted"])
def test_smoothed_labels_are_the_same_as_given_by_hand(
    name: LossName, logits: torch.Tensor, targets: torch.Tensor
) -> None:
    loss = partial(objective, name, logits, sizes=SIZES, alpha=0.5, temperature=T)
    by_hand = 0.9 * torch.nn.functional.one_hot(targets, CLASSES) + 0.1 / CLASSES
    torch.testing.assert_close(loss(targets, label_smoothing=0.1), loss(by_hand.double()))
