"""The running average of a model's weights."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn

from model_core.build import build_model
from model_core.zoo import architecture
from training.averaging import WeightAverage, new_average
from training.errors import DataError


def test_an_even_average_begins_with_its_share_and_has_statistics_of_its_own_weights() -> None:
    torch.manual_seed(0)
    model = build_model(architecture("hne_tiny", branching=(1, 1, 2, 1, 1)))
    average = WeightAverage(model, decay=None, stored={}, since=2)
    parameter = next(model.parameters())
    for step, value in enumerate((5.0, 7.0, 1.0, 2.0, 6.0)):
        parameter.data.fill_(value)
        average.update(step)
        expected = value if step < 2 else sum((1.0, 2.0, 6.0)[: step - 1]) / (step - 1)
        torch.testing.assert_close(next(average.model.parameters()), torch.full_like(parameter, expected))

    batches = [torch.randn(8, 3, 32, 32) + 1 for _ in range(3)]
    average.settle(batches)
    first, norm = (
        next(m for m in average.model.modules() if isinstance(m, kind)) for kind in (nn.Conv2d, nn.BatchNorm2d)
    )
    assert isinstance(norm, nn.BatchNorm2d)
    maps = [first(images) for images in batches]
    torch.testing.assert_close(norm.running_mean, torch.stack([m.mean((0, 2, 3)) for m in maps]).mean(0))
    torch.testing.assert_close(norm.running_var, torch.stack([m.var((0, 2, 3)) for m in maps]).mean(0))
    assert not any(module.training for module in average.model.modules())
    assert norm.momentum == 0.1


def test_a_share_is_the_last_one_and_is_settled_once_it_has_begun() -> None:
    model = build_model(architecture("hne_tiny", branching=(1, 1, 2, 1, 1)))
    average = new_average(model, ema=0.0, swa=0.25, steps=8, stored={})
    assert average is not None
    parameter = next(model.parameters())
    for step in range(8):
        parameter.data.fill_(step)
        average.update(step)
    torch.testing.assert_close(next(average.model.parameters()), torch.full_like(parameter, 6.5))
    assert [steps for steps in range(9) if average.is_even_after(steps)] == [7, 8]
    assert new_average(model, ema=0.0, swa=0.0, steps=8, stored={}) is None


def test_where_images_cannot_be_read_the_statistics_stay_as_they_are() -> None:
    model = build_model(architecture("hne_tiny", branching=(1, 1, 2, 1, 1)))
    average = WeightAverage(model, decay=None, stored={})
    average.settle([torch.randn(8, 3, 32, 32)])
    before = {name: tensor.clone() for name, tensor in average.model.state_dict().items()}

    def batches() -> Iterator[Tensor]:
        yield torch.ones(8, 3, 32, 32)
        raise DataError("broken.png: not a readable image")

    with pytest.raises(DataError):
        average.settle(batches())
    for name, tensor in average.model.state_dict().items():
        assert tensor.equal(before[name]), name
    assert not any(module.training for module in average.model.modules())


def test_settling_is_forgotten_by_the_next_step() -> None:
    """So that a run which is evaluated in between ends like one that is not."""
    torch.manual_seed(0)
    model = build_model(architecture("hne_tiny", branching=(1, 1, 2, 1, 1)))
    seen, unseen = (WeightAverage(model, decay=None, stored={}) for _ in range(2))
    for average in (seen, unseen):
        average.update(0)
    seen.settle([torch.randn(8, 3, 32, 32)])
    for average in (seen, unseen):
        average.update(1)
        average.settle([torch.ones(4, 3, 32, 32)])
    for name, tensor in seen.model.state_dict().items():
        assert tensor.equal(unseen.model.state_dict()[name]), name
