"""Every node learns at the rate of a network of its own: the weights against the gradients themselves."""

from __future__ import annotations

import pytest
import torch

from model_core.tree import Tree
from training.config import LossName
from training.losses import objective, prefix_sizes
from training.optimizer import gradient_weight

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
