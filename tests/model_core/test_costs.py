"""Multiply-adds and parameters: of the paper's architectures as we read them (it gives no figure but a bound), by hand
for a single layer, and of networks of one's own."""

import pytest
import torch
from torch import Tensor, nn

from model_core.build import build_model
from model_core.costs import Costs, count_costs
from model_core.custom import replicated
from model_core.grouped import HierarchicalEnsemble
from model_core.spec import ModelSpec
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


class Masked(nn.Module):
    """Computes with a tensor that is neither parameter nor buffer, and looks at what it computes."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.linear = nn.Linear(48, outputs)
        self.mask = torch.ones(outputs)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.linear(x.flatten(1)) * self.mask
        return y if y.isfinite().all().item() else torch.zeros_like(y)


def test_a_network_that_takes_numbers_to_compute_is_counted_on_its_own_device() -> None:
    spec = ModelSpec(name="masked", family="mine", branching=(1, 2), classes=10, input_shape=(3, 4, 4))
    levels = replicated(spec, [lambda: Masked(48), lambda: Masked(10)])
    costs = count_costs(HierarchicalEnsemble(spec, levels))
    assert costs.node_flops == (48 * 48, 48 * 10)
    assert costs.node_parameters == (48 * 48 + 48, 48 * 10 + 10)


def test_a_model_in_training_is_left_as_it_is() -> None:
    model = build_model(architecture("hne_transformer"))
    before = {name: (tensor.data_ptr(), tensor.device) for name, tensor in model.state_dict().items()}
    count_costs(model)
    assert all(module.training for module in model.modules())
    assert {name: (tensor.data_ptr(), tensor.device) for name, tensor in model.state_dict().items()} == before
