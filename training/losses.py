"""The paper's losses, Eqs. 3 to 6, as pure functions of the leaf logits.

Shape legend: L leaves, B batch, K classes, S nested ensembles.

Sums or means. Over images we take the mean, as everybody does who states a learning rate without the size of the
dataset. Over networks (Eqs. 3, 5) and over nested ensembles (Eqs. 4, 6) we keep the paper's **sums**: a leaf's own
parameters see the gradient that a network of its own would see, for which the learning rate of 0.1 is meant, and the
balance of the two terms is the paper's (the first leaf gets weight 1 from Eq. 3 and 1 + 1/2 + 1/4 + 1/8 from Eq. 6).
Shared blocks receive the sum of their leaves' gradients; the trainer's optimizer divides it by their number.

Temperature. Soft labels are softmax(teacher / T), compared with the student at the same T and multiplied by T^2,
so that the gradient, which shrinks like 1/T^2, keeps its weight against the cross-entropy (Hinton et al. 2015).

Teacher. y_E is detached: it gets no gradient (section 3.3).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from training.config import LossName

__all__ = [
    "distillation",
    "hierarchical_distillation",
    "independent",
    "nested_outputs",
    "objective",
    "structured",
]


def independent(logits_lbk: Tensor, targets_b: Tensor) -> Tensor:
    """L_I, Eq. 3: cross-entropy of every network, summed over networks, mean over the batch."""
    leaves = logits_lbk.shape[0]
    return leaves * F.cross_entropy(logits_lbk.flatten(0, 1), targets_b.repeat(leaves))


def structured(logits_lbk: Tensor, targets_b: Tensor, *, sizes: Sequence[int]) -> Tensor:
    """L_S, Eq. 4: cross-entropy of every nested ensemble, the full one included, summed."""
    return independent(nested_outputs(logits_lbk, sizes), targets_b)


def distillation(logits_lbk: Tensor, *, temperature: float) -> Tensor:
    """L_D, Eq. 5: every network learns from the full ensemble."""
    return _soft_cross_entropy(logits_lbk, logits_lbk.mean(0), temperature)


def hierarchical_distillation(logits_lbk: Tensor, *, sizes: Sequence[int], temperature: float) -> Tensor:
    """L_HD, Eq. 6: every smaller nested ensemble (b = 0..B-1) learns from the full one."""
    smaller = [size for size in sizes if size < logits_lbk.shape[0]]
    if not smaller:  # a single network has no smaller ensemble: an empty sum
        return logits_lbk.new_zeros(())
    return _soft_cross_entropy(nested_outputs(logits_lbk, smaller), logits_lbk.mean(0), temperature)


def objective(
    name: LossName,
    logits_lbk: Tensor,
    targets_b: Tensor,
    *,
    sizes: Sequence[int],
    alpha: float,
    temperature: float,
) -> Tensor:
    """What is minimised: L_I, L_S, or (1 - alpha) L_I + alpha (L_D or L_HD).

    `sizes` are those of the nested ensembles, `Tree.nested_sizes()`. Returns a scalar.
    """
    match name:
        case "i":
            return independent(logits_lbk, targets_b)
        case "s":
            return structured(logits_lbk, targets_b, sizes=sizes)
        case "d":
            distilled = distillation(logits_lbk, temperature=temperature)
        case "hd":
            distilled = hierarchical_distillation(logits_lbk, sizes=sizes, temperature=temperature)
    return (1 - alpha) * independent(logits_lbk, targets_b) + alpha * distilled


def nested_outputs(logits_lbk: Tensor, sizes: Sequence[int]) -> Tensor:
    """y_b, Eq. 1: mean logits of the first `size` leaves, for each size: (S, B, K)."""
    return torch.stack([logits_lbk[:size].mean(0) for size in sizes])


def _soft_cross_entropy(students_sbk: Tensor, teacher_bk: Tensor, temperature: float) -> Tensor:
    """T^2 times the cross-entropy against the teacher's soft labels, summed over S, mean over the batch."""
    labels_bk = F.softmax(teacher_bk.detach() / temperature, dim=-1)
    log_probabilities_sbk = F.log_softmax(students_sbk / temperature, dim=-1)
    return -(temperature**2) * (labels_bk * log_probabilities_sbk).sum(-1).mean(-1).sum()
