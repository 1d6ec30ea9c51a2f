"""Bring your own network: ordinary modules become an ensemble; mistakes are explained."""

from collections.abc import Callable
from contextlib import nullcontext

import pytest
import torch
from torch import nn

from model_core.build import build_model
from model_core.costs import count_costs
from model_core.custom import ReplicatedBlock, replicated
from model_core.depth_first import refine, segment_module
from model_core.errors import SpecError
from model_core.grouped import HierarchicalEnsemble, prefix_means
from model_core.spec import ModelSpec
from model_core.tree import Segment
from model_core.zoo import architecture

SPEC = ModelSpec(name="mine", family="mlp", branching=(1, 2, 3), classes=4, input_shape=(1, 4, 4))


def mlp(spec: ModelSpec) -> list[ReplicatedBlock]:
    return replicated(
        spec,
        [
            lambda: nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.ReLU()),
            lambda: nn.Sequential(nn.Linear(8, 8), nn.ReLU()),
            lambda: nn.Linear(8, spec.classes),
        ],
    )


def test_a_network_of_ordinary_modules_becomes_an_ensemble() -> None:
    model = HierarchicalEnsemble(SPEC, mlp(SPEC)).eval()
    images = torch.randn(5, 1, 4, 4)
    with torch.inference_mode():
        expected = prefix_means(model(images))
    for y, theirs in zip(refine(model, images), expected, strict=True):
        torch.testing.assert_close(y, theirs)
    assert count_costs(model).cumulative_flops[1] == 16 * 8 + 8 * 8 + 8 * 4


def test_evaluating_depth_first_leaves_a_model_in_training() -> None:
    model = build_model(architecture("hne_transformer")).train()
    segments = [segment_module(model, Segment(leaf)) for leaf in range(2)]
    assert all(module.training for module in model.modules())
    assert not any(module.training for segment in segments for module in segment.blocks.modules())
    ours, theirs = ({id(parameter) for parameter in part.parameters()} for part in (model, segments[0]))
    assert theirs <= ours, "and shares its weights"


def test_one_factory_per_block_is_asked_for() -> None:
    with pytest.raises(SpecError, match="1 block factories for 3 branching factors"):
        replicated(SPEC, [nn.Flatten])


class Late(nn.Module):
    """Has its activation registered first, and uses it last."""

    def __init__(self) -> None:
        super().__init__()
        self.act = nn.ReLU(inplace=True)
        self.linear = nn.Linear(32, 10)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y: torch.Tensor = self.act(self.linear(x.flatten(1)))
        return y


@pytest.mark.parametrize(
    ("block", "changes"),
    [
        (lambda: nn.Sequential(nn.SiLU(inplace=True), nn.Flatten(), nn.Linear(32, 10)), True),
        (lambda: nn.Sequential(nn.Flatten(), nn.ReLU(inplace=True), nn.Linear(32, 10)), True),
        (lambda: nn.Sequential(nn.Flatten(), nn.Linear(32, 10), nn.ReLU(inplace=True)), False),
        (Late, False),
    ],
    ids=["at its beginning", "of a view", "of its own", "of its own, registered first"],
)
def test_a_module_that_changes_what_its_siblings_start_from_is_refused(
    block: Callable[[], nn.Module], changes: bool
) -> None:
    for branching, refused in (((1, 2), changes), ((1, 1), False)):
        spec = SPEC.replace(branching=branching, classes=10, input_shape=(3, 4, 4))
        model = HierarchicalEnsemble(spec, replicated(spec, [lambda: nn.Conv2d(3, 8, 3), block]))
        with pytest.raises(SpecError, match="block 1 changes its input in place") if refused else nullcontext():
            count_costs(model)


def test_a_factory_that_returns_the_same_module_twice_is_refused() -> None:
    shared = nn.Linear(8, 8)
    with pytest.raises(SpecError, match="block 1 must return a new module at each call"):
        replicated(SPEC, [nn.Flatten, lambda: shared, nn.Flatten])


@pytest.mark.parametrize(
    ("options", "fault"),
    [
        ({"patch": 5}, "do not tile"),
        ({"heads": 5}, "do not divide"),
        ({"layers": [1]}, "1 depths for 4 blocks"),
        ({"depth": 3}, "depth"),
    ],
)
def test_transformer_options_that_do_not_fit_are_refused(options: dict[str, object], fault: str) -> None:
    spec = architecture("hne_transformer")
    with pytest.raises(SpecError, match=fault):
        build_model(spec.replace(options={**spec.options, **options}))


@pytest.mark.parametrize(("name", "family"), [("hne_tiny", "resnet"), ("hne_mobilenetv2", "mobilenetv2")])
def test_a_row_that_the_family_does_not_have_is_refused(name: str, family: str) -> None:
    spec = architecture(name)
    rows = ((spec.rows[0][0]._replace(layer="conv5d"), *spec.rows[0][1:]), *spec.rows[1:])
    with pytest.raises(SpecError, match=f"the {family} family has no layer 'conv5d'"), torch.device("meta"):
        build_model(spec.replace(rows=rows))
