"""The figures of the paper: millions of multiply-adds and of parameters."""

import pytest
import torch

from model_core.build import build_model
from model_core.costs import Costs, count_costs
from model_core.tree import Segment
from model_core.zoo import architecture

BINARY_SIZES = (1, 2, 4, 8, 16)


def costs_of(name: str, *, branching: tuple[int, ...] | None = None) -> Costs:
    """Of an architecture, without allocating its weights."""
    with torch.device("meta"):
        return count_costs(build_model(architecture(name, branching=branching)))


@pytest.mark.parametrize(
    ("name", "millions"),
    [
        ("hne", (51, 66, 107, 202, 402)),
        ("hne_small", (13, 17, 27, 51, 102)),
        ("hne_mobilenetv2", (490, 600, 935, 1677, 3238)),
    ],
)
def test_flops_of_the_papers_architectures(name: str, millions: tuple[int, ...]) -> None:
    cumulative = costs_of(name).cumulative_flops
    assert tuple(round(cumulative[size] / 1e6) for size in BINARY_SIZES) == millions


@pytest.mark.parametrize(("name", "millions"), [("hne", 5.3), ("hne_small", 1.4), ("hne_mobilenetv2", 103.1)])
def test_parameters_of_the_papers_architectures(name: str, millions: float) -> None:
    assert costs_of(name).parameters / 1e6 == pytest.approx(millions, abs=0.05)


def test_a_single_convolution_layer_by_hand() -> None:
    costs = costs_of("hne_tiny")
    stem = 32 * 32 * (3 * 9 * 4 + 4 * 16)  # 3x3 to 4 channels, 1x1 to 16
    assert costs.node_flops[0] == stem


def test_steps_segments_and_sizes_add_up() -> None:
    costs = costs_of("hne_tiny")
    assert costs.cumulative_flops[0] == 0
    assert costs.segment_flops(Segment(0, 16)) == costs.cumulative_flops[16] == sum(costs.step_flops)
    assert costs.subset_parameters(16) == costs.parameters
    assert costs.subset_parameters(1) == sum(costs.node_parameters)


def test_independent_networks_cost_their_number_times_one() -> None:
    costs = costs_of("hne_tiny", branching=(16, 1, 1, 1, 1))
    assert costs.cumulative_flops[16] == 16 * costs.cumulative_flops[1]


def test_a_model_in_training_is_left_as_it_is() -> None:
    model = build_model(architecture("hne_transformer"))
    before = {name: (tensor.data_ptr(), tensor.device) for name, tensor in model.state_dict().items()}
    count_costs(model)
    assert all(module.training for module in model.modules())
    assert {name: (tensor.data_ptr(), tensor.device) for name, tensor in model.state_dict().items()} == before
