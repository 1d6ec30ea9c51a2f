"""The layout for training on a GPU computes what the grouped form does: outputs, gradients, running statistics."""

from __future__ import annotations

from copy import deepcopy

import pytest
import torch
from torch import nn

from model_core.build import build_model
from model_core.group_major import GroupMajor
from model_core.group_operations import _parts
from model_core.grouped import HierarchicalEnsemble
from model_core.layers import ConvNorm, TableBlock
from model_core.resnet import Bottleneck
from model_core.spec import ModelSpec, Row
from model_core.zoo import architecture


def changed(layer: ConvNorm, part: str, **settings: object) -> ConvNorm:
    for name, value in settings.items():
        setattr(getattr(layer, part), name, value)
    return layer


def folded(layer: ConvNorm) -> ConvNorm:
    layer.eval().fold()
    return layer


def with_random_norms(name: str, branching: tuple[int, ...] | None = None) -> HierarchicalEnsemble:
    """A model in training mode whose residual branches are not zero as at the start of a training."""
    model = build_model(architecture(name, branching=branching)).train()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, std=0.1)
    return model


@pytest.mark.parametrize(
    ("name", "branching", "size"),
    [
        ("hne_tiny", None, 32),
        ("hne_tiny", (1, 1, 1, 16, 1), 16),
        ("hne_tiny", (4, 1, 2, 1, 1), 16),
        ("hne_tiny", (1, 3, 1, 2, 1), 15),
        ("hne_mobilenetv2", (1, 2, 1, 1, 1), 33),
    ],
    ids=["tiny", "multi-branch", "from the image", "odd", "mobilenet"],
)
def test_it_is_the_grouped_form_in_another_layout(name: str, branching: tuple[int, ...] | None, size: int) -> None:
    torch.manual_seed(0)
    grouped = with_random_norms(name, branching).double()
    other = deepcopy(grouped)
    assert GroupMajor.supports(other)
    layout = GroupMajor(other)
    images = torch.randn(6, 3, size, size, dtype=torch.double)
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


def test_in_bfloat16_it_is_as_near_as_convolutions_are() -> None:
    torch.manual_seed(0)
    models = [with_random_norms("hne_tiny")]
    models += [deepcopy(models[0]), deepcopy(models[0])]
    images, weights = torch.randn(16, 3, 32, 32), torch.randn(16, 16, 10)
    exact = models[0](images)
    with torch.autocast("cpu", torch.bfloat16):
        as_convolutions, found = models[1](images), GroupMajor(models[2])(images)
    for result in (exact, as_convolutions, found):
        (result.float() * weights).sum().backward()
    gradients = [torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None]) for model in models]
    # Without a compiler, which keeps float32 in registers, its sums of nine are rounded nine times.
    assert (found.float() - exact).norm() < 1.5 * (as_convolutions.float() - exact).norm()
    assert (gradients[2] - gradients[0]).norm() < 1.5 * (gradients[1] - gradients[0]).norm()


def test_rows_that_begin_or_end_a_block_otherwise() -> None:
    rows = (
        (Row("conv1x1", 1, 1, 8),),
        (Row("conv1x1", 1, 1, 8), Row("classifier", 1, 1, 0)),
    )
    spec = ModelSpec(name="rows", family="resnet", branching=(1, 2), classes=3, input_shape=(3, 8, 8), rows=rows)
    torch.manual_seed(0)
    grouped = build_model(spec).train()
    layout = GroupMajor(deepcopy(grouped))
    assert layout.supports(grouped)
    images = torch.randn(4, 3, 8, 8)
    torch.testing.assert_close(layout(images), grouped(images), atol=1e-4, rtol=1e-4)
    with torch.autocast("cpu", torch.bfloat16):
        layout(images).sum().backward()  # the image is no bfloat16


@pytest.mark.parametrize("pixels", [65280, 98000, 49, 7])
def test_sums_are_shared_whatever_the_number_of_pixels(pixels: int) -> None:
    parts = _parts(torch.zeros(1, pixels, 1))
    assert parts.shape[1] * parts.shape[2] == pixels
    assert parts.shape[2] <= 1024


class OwnBottleneck(Bottleneck):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return -super().forward(x)


@pytest.mark.parametrize(
    "layer",
    [
        OwnBottleneck(8, 8, stride=1, parents=1, nodes=1, project=False),
        nn.Conv2d(3, 4, 1),
        nn.Sequential(nn.Flatten()),
        nn.AdaptiveAvgPool2d(2),
        nn.GELU(),
        ConvNorm(4, 4, 4, groups=4),
        changed(ConvNorm(4, 4, 3, groups=4), "conv", dilation=(2, 2)),
        changed(ConvNorm(4, 4), "conv", padding_mode="circular"),
        changed(ConvNorm(4, 4), "norm", momentum=None),
        changed(ConvNorm(4, 4), "norm", track_running_stats=False),
        folded(ConvNorm(4, 4)),
    ],
    ids=[
        *("subclass", "bare convolution", "flattened maps", "pooled to more", "other activation", "even kernel"),
        *("dilated", "circular", "cumulative", "untracked", "folded"),
    ],
)
def test_what_it_would_compute_otherwise_it_does_not_take(layer: nn.Module) -> None:
    model = build_model(architecture("hne_tiny"))
    assert GroupMajor.supports(model)
    block = model.block(1)
    assert isinstance(block, TableBlock)
    block.layers.append(layer)
    assert not GroupMajor.supports(model)


def test_one_pixel_has_no_statistics() -> None:
    model = build_model(architecture("hne_tiny")).train()
    with pytest.raises(ValueError, match="more than one pixel"):
        GroupMajor(model)(torch.zeros(1, 3, 1, 1))


def test_other_layers_are_not_its_business() -> None:
    assert not GroupMajor.supports(build_model(architecture("hne_transformer")))
