"""Every node learns at the rate of a network of its own, or all at one: weights against the gradients themselves."""

from __future__ import annotations

import pytest
import torch

from model_core.build import build_model
from model_core.spec import ModelSpec
from model_core.tree import Tree
from training.config import LossName, TrainConfig
from training.losses import hierarchical_distillation, independent, objective, prefix_sizes
from training.optimizer import gradient_weight, sgd

TREE = Tree((1, 2, 2, 2, 2))


@pytest.mark.parametrize("block", range(5))
@pytest.mark.parametrize(("loss", "prefixes"), [("i", "powers"), ("s", "powers"), ("s", "all"), ("boosted", "powers")])
def test_the_weight_is_that_of_the_gradient_that_the_first_node_receives(
    loss: LossName, prefixes: str, block: int
) -> None:
    # Equal networks: every leaf's residual is the same, so gradients add up to the weight times one network's.
    logits = torch.randn(1, 3, 5, generator=torch.Generator().manual_seed(0), dtype=torch.double).repeat(16, 1, 1)
    logits.requires_grad_()
    targets = torch.tensor([0, 3, 1])
    sizes = prefix_sizes(16, prefixes)  # type: ignore[arg-type]
    (found,) = torch.autograd.grad(objective(loss, logits, targets, sizes=sizes, alpha=0.5, temperature=2.0), logits)
    (alone,) = torch.autograd.grad(torch.nn.functional.cross_entropy(logits[0], targets), logits)
    below_the_first_node = found[: TREE.span(block)].sum(0)
    expected = gradient_weight(loss, TREE, block, sizes) * alone[0]
    torch.testing.assert_close(below_the_first_node, expected)


def test_the_structured_loss_gives_the_root_five_networks_and_the_first_leaf_less_than_two() -> None:
    weights = [gradient_weight("s", TREE, block, prefix_sizes(16)) for block in range(5)]
    assert weights == [5, 4.5, 3.75, 2.875, 1.9375]
    assert [gradient_weight("hd", TREE, block, prefix_sizes(16)) for block in range(5)] == [16, 8, 4, 2, 1]


def test_hierarchical_distillation_gives_the_root_less_and_the_first_leaf_more_than_is_assumed() -> None:
    logits = torch.randn(1, 3, 5, generator=torch.Generator().manual_seed(0), dtype=torch.double).repeat(16, 1, 1)
    logits.requires_grad_()
    targets = torch.tensor([0, 3, 1])
    labels = torch.nn.functional.one_hot(targets, 5).double()  # so that both terms count in the same unit
    distilled = hierarchical_distillation(logits, labels, sizes=prefix_sizes(16), temperature=1.0)
    (found,) = torch.autograd.grad(0.5 * independent(logits, targets) + 0.5 * distilled, logits)
    (alone,) = torch.autograd.grad(torch.nn.functional.cross_entropy(logits[0], targets), logits)
    for block, networks in enumerate((10, 6, 3.75, 2.375, 1.4375)):
        torch.testing.assert_close(found[: TREE.span(block)].sum(0), networks * alone[0])


def test_the_same_rate_for_all_nodes_is_plain_sgd(small_spec: ModelSpec) -> None:
    torch.manual_seed(0)
    model = build_model(small_spec)
    parameters = [parameter.detach().clone().requires_grad_() for parameter in model.parameters()]
    plain = torch.optim.SGD(parameters, lr=0.1, momentum=0.9, weight_decay=5e-4)
    ours = sgd(model, TrainConfig(node_rates="same").resolved(), prefix_sizes(4))
    assert [group["weight"] for group in ours.param_groups] == [1, 1, 1]
    for parameter, other in zip(model.parameters(), parameters, strict=True):
        parameter.grad = torch.randn_like(parameter)
        other.grad = parameter.grad.clone()
    ours.step()
    plain.step()
    for parameter, other in zip(model.parameters(), parameters, strict=True):
        assert parameter.equal(other)
    own = sgd(model, TrainConfig().resolved(), prefix_sizes(4))
    assert [(group["weight"], group["weight_decay"]) for group in own.param_groups] == [(4, 2e-3), (2, 1e-3), (1, 5e-4)]
