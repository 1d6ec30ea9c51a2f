"""The layout for training on a GPU computes what the grouped form does: outputs, gradients, running statistics."""

from __future__ import annotations

from collections.abc import Iterator
from copy import deepcopy

import pytest
import torch
from torch import nn

from model_core.build import build_model
from model_core.group_major import GroupMajor
from model_core.grouped import HierarchicalEnsemble
from model_core.zoo import architecture


def with_random_norms(name: str, branching: tuple[int, ...] | None = None) -> HierarchicalEnsemble:
    """A model in training mode whose residual branches are not zero as at the start of a training."""
    model = build_model(architecture(name, branching=branching)).train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
    return model


@pytest.fixture
def exact(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Double precision throughout, so that a formula that is only nearly right is seen."""
    torch.set_default_dtype(torch.float64)
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    yield
    torch.set_default_dtype(torch.float32)


@pytest.mark.usefixtures("exact")
@pytest.mark.parametrize(
    ("name", "branching", "size"),
    [
        ("hne_tiny", None, 32),
        ("hne_tiny", (1, 1, 1, 16, 1), 32),
        ("hne_tiny", (4, 1, 2, 1, 1), 32),
        ("hne_mobilenetv2", None, 64),
    ],
    ids=["tiny", "multi-branch", "from the image", "mobilenet"],
)
def test_it_is_the_grouped_form_in_another_layout(name: str, branching: tuple[int, ...] | None, size: int) -> None:
    torch.manual_seed(0)
    grouped = with_random_norms(name, branching)
    other = deepcopy(grouped)
    assert GroupMajor.supports(other)
    layout = GroupMajor(other)
    images = torch.randn(6, 3, size, size)
    expected, found = grouped(images), layout(images)
    layout.count_batch()
    torch.testing.assert_close(found, expected, atol=1e-9, rtol=1e-9)
    weights = torch.randn_like(expected)
    (expected * weights).sum().backward()
    (found * weights).sum().backward()
    for own, theirs in zip(grouped.parameters(), other.parameters(), strict=True):
        assert own.grad is not None
        torch.testing.assert_close(theirs.grad, own.grad, atol=1e-9, rtol=1e-7)
    for own_buffer, their_buffer in zip(grouped.buffers(), other.buffers(), strict=True):
        torch.testing.assert_close(their_buffer, own_buffer, atol=1e-9, rtol=1e-9)


def test_in_bfloat16_it_stays_near() -> None:
    torch.manual_seed(0)
    grouped = with_random_norms("hne_tiny")
    layout = GroupMajor(deepcopy(grouped))
    images = torch.randn(16, 3, 32, 32)
    exact = grouped(images)
    with torch.autocast("cpu", torch.bfloat16):
        found, as_convolutions = layout(images), grouped(images)
    # Without a compiler, which keeps float32 in registers, its sums of nine are rounded nine times.
    assert (found.float() - exact).norm() < 1.5 * (as_convolutions.float() - exact).norm()


def test_other_layers_are_not_its_business() -> None:
    assert not GroupMajor.supports(build_model(architecture("hne_transformer")))
