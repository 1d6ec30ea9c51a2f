"""Subtrees on threads of their own compute what the grouped form does: outputs, gradients, running statistics."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch

from model_core.build import build_model
from model_core.subtrees import Subtrees
from model_core.zoo import architecture
from tests.models import assert_trained_alike, with_random_norms


@pytest.mark.parametrize(
    ("name", "branching", "threads", "parts", "size"),
    [
        ("hne_tiny", None, 1, 2, 32),
        ("hne_tiny", None, 2, 2, 32),
        ("hne_tiny", None, 5, 4, 16),
        ("hne_tiny", None, 32, 16, 16),
        ("hne_tiny", (1, 1, 1, 16, 1), 4, 4, 16),
        ("hne_tiny", (4, 1, 2, 1, 1), 3, 2, 16),
        ("hne_tiny", (1, 3, 1, 2, 1), 4, 3, 15),
        ("hne_tiny", (1, 3, 1, 2, 1), 6, 6, 15),
        ("hne_mobilenetv2", (1, 2, 1, 1, 1), 2, 2, 33),
    ],
)
def test_it_is_the_grouped_form(
    name: str, branching: tuple[int, ...] | None, threads: int, parts: int, size: int
) -> None:
    grouped = with_random_norms(name, branching).double()
    other = deepcopy(grouped)
    assert Subtrees.supports(other, threads=threads)
    form = Subtrees(other, threads=threads)
    assert len(form.parts) == parts
    for _ in range(2):  # the second time with weights that an optimizer has changed
        assert_trained_alike(grouped, other, form, torch.randn(6, 3, size, size, dtype=torch.double))
        for model in (grouped, other):
            torch.optim.SGD(model.parameters(), lr=1e-3).step()
            model.zero_grad()


def test_in_bfloat16_and_channels_last_the_grouped_form_is_as_far_from_it_as_from_float32() -> None:
    models = [with_random_norms("hne_tiny").to(memory_format=torch.channels_last)]
    models += [deepcopy(models[0]), deepcopy(models[0])]
    images = torch.randn(16, 3, 32, 32).contiguous(memory_format=torch.channels_last)
    weights = torch.randn(16, 16, 10)
    exact = models[0](images)
    with torch.autocast("cpu", torch.bfloat16):
        grouped, found = models[1](images), Subtrees(models[2], threads=2)(images)
    for result in (exact, grouped, found):
        (result.float() * weights).sum().backward()
    gradients = [torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]) for model in models]
    assert 0.5 < (found.float() - exact).norm() / (grouped.float() - exact).norm() < 1.5
    assert (gradients[2] - gradients[0]).norm() < 1.5 * (gradients[1] - gradients[0]).norm()


def test_the_same_step_has_the_same_bits() -> None:
    images, gradients = torch.randn(8, 3, 32, 32), []
    for _ in range(3):
        model = with_random_norms("hne_tiny")
        torch.autograd.backward(Subtrees(model, threads=4)(images).square().sum())
        gradients.append([parameter.grad for parameter in model.parameters()])
    for others in gradients[1:]:
        for found, expected in zip(others, gradients[0], strict=True):
            assert found is not None
            assert expected is not None
            assert found.equal(expected)


def test_evaluation_changes_nothing() -> None:
    model = with_random_norms("hne_tiny")
    form = Subtrees(model, threads=2)
    model.eval().requires_grad_(False)
    before = deepcopy(model.state_dict())
    images = torch.randn(4, 3, 32, 32)
    found = form(images)
    assert not found.requires_grad
    torch.testing.assert_close(found, model(images), atol=1e-5, rtol=1e-4)
    assert all(tensor.equal(before[name]) for name, tensor in model.state_dict().items())


def test_a_model_may_be_trained_later_than_the_form_was_made() -> None:
    model = with_random_norms("hne_tiny").eval()
    form, images = Subtrees(model, threads=2), torch.randn(4, 3, 32, 32)
    in_evaluation = form(images)
    model.train()
    assert not form(images).allclose(in_evaluation, atol=0.1)


def test_a_fault_in_a_subtree_is_the_callers() -> None:
    form = Subtrees(with_random_norms("hne_tiny"), threads=2)
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        form(torch.randn(1, 3, 4, 4))


def test_pytorchs_number_of_threads_stays() -> None:
    before = torch.get_num_threads()
    form = Subtrees(with_random_norms("hne_tiny"), threads=4)
    torch.autograd.backward(form(torch.randn(2, 3, 32, 32)).sum())
    assert torch.get_num_threads() == before


@pytest.mark.parametrize(
    ("name", "branching"), [("hne_tiny", (1, 1, 1, 1, 1)), ("hne_transformer", None)], ids=["one network", "own blocks"]
)
def test_what_cannot_be_cut_is_not_taken(name: str, branching: tuple[int, ...] | None) -> None:
    assert not Subtrees.supports(build_model(architecture(name, branching=branching)), threads=2)


def test_a_tree_without_equal_subtrees_for_the_threads_is_not_taken() -> None:
    model = build_model(architecture("hne_tiny", branching=(1, 3, 1, 1, 1)))
    assert not Subtrees.supports(model, threads=2)
    assert Subtrees.supports(model, threads=3)
