"""Losses that are means over networks and over ensembles, said in the settings of ours, which are sums (`losses`).

SGD on s times a loss, at a rate lr and weight decay w, takes the same steps as on the loss itself at s * lr and w / s.
"""

from __future__ import annotations

from dataclasses import replace

from training.config import TrainConfig
from training.losses import prefix_sizes
from training.run import spec_of

__all__ = ["in_means", "rounded"]


def in_means(config: TrainConfig) -> TrainConfig:
    """The same training with L_I / L, L_D / L, L_S / (B + 1) and L_HD / B in Eqs. 3 to 6, for L networks and the sizes
    2^0 to 2^B = L, at one rate for all levels: what a mean over all logits that are there comes to.

    A network's own block then has an L-th of the gradient of a network alone under L_I, beside the same weight decay;
    the first one has (1 - alpha) / L + alpha / B * (1 + 1/2 + 1/4 + ...) with L_HD, which is four times as much in the
    paper's tree.
    """
    assert config.weight_decay is not None
    assert config.loss != "boosted", "which is ours, and a sum"
    leaves = spec_of(config).tree.leaves
    ensembles = len(prefix_sizes(leaves))
    independent, alpha = 1 / leaves, config.alpha
    if config.loss == "s":
        scale = 1 / ensembles
    elif config.loss == "hd":
        distilled = alpha / (ensembles - 1)
        scale = (1 - alpha) * independent + distilled
        alpha = distilled / scale
    else:
        scale = independent
    return replace(
        config,
        alpha=rounded(alpha),
        lr=rounded(scale * config.lr),
        weight_decay=rounded(config.weight_decay / scale),
        node_rates="same",
    )


def rounded(value: float) -> float:
    """Without the last digits, which are rounding's: they would be part of a run's name."""
    return float(f"{value:.6g}")
