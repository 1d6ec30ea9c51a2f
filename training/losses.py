"""The paper's losses, Eqs. 3 to 6, as pure functions of the leaf logits.

Shape legend: L leaves, B batch, K classes, S nested ensembles. Targets are class indices (B,), or probabilities (B, K)
where images were mixed.

Sums or means. Over images we take the mean, as everybody does who states a learning rate without the size of the
dataset. Over networks (Eqs. 3, 5) and over nested ensembles (Eqs. 4, 6) we keep the paper's **sums**: under L_I a
leaf's own parameters see the gradient that a network of its own would see, for which the learning rate of 0.1 is meant,
and the balance of the two terms is the paper's (the first leaf gets weight 1 from Eq. 3 and 1 + 1/2 + 1/4 + 1/8 from
Eq. 6; means over networks and ensembles instead would be alpha = 0.8 where this has 0.5). Shared blocks receive the sum
of their leaves' gradients, which the optimizer takes into account (`training/optimizer.py`).

Temperature. Soft labels are softmax(y_E / T). The paper's text says no more, and names Song and Chai (2018), who, like
Hinton et al. (2015), compare them with the student at the same T; so do we, times T^2, so that the gradient, which
shrinks like 1/T^2, keeps its weight against the cross-entropy. Read to the letter, Eqs. 5 and 6 compare them with the
networks' own softmax, which is a student temperature of 1: an ensemble learning from a softer copy of itself, a strong
form of label smoothing.

Nested ensembles. Eq. 1 names sizes 1, 2, 4, ..., N. For a binary tree these are its first subtrees. For other trees it
is still Eq. 1 that the text gives: Figure 5 compares them with "our hierarchical distillation loss in all cases", at
the same sizes, though the multi-branch tree has no whole subtrees but of 1 and N leaves. So powers of two in any tree.

Teacher. y_E is detached: it gets no gradient (section 3.3).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from training.config import LossName, Prefixes

__all__ = [
    "boosted",
    "distillation",
    "hierarchical_distillation",
    "independent",
    "nested_outputs",
    "objective",
    "prefix_sizes",
    "soft_labels",
    "structured",
]


def prefix_sizes(leaves: int, which: Prefixes = "powers") -> tuple[int, ...]:
    """The sizes of the nested ensembles that a loss trains, up to the full one."""
    if which == "all":
        return tuple(range(1, leaves + 1))
    if which == "first":
        return (1, leaves) if leaves > 1 else (1,)
    return (*(2**b for b in range(_smaller_powers(leaves))), leaves)


def independent(logits_lbk: Tensor, targets: Tensor, *, label_smoothing: float = 0.0) -> Tensor:
    """L_I, Eq. 3: cross-entropy of every network, summed over networks, mean over the batch."""
    leaves = logits_lbk.shape[0]
    repeated = targets.repeat(leaves, *[1] * (targets.ndim - 1))
    return leaves * F.cross_entropy(logits_lbk.flatten(0, 1), repeated, label_smoothing=label_smoothing)


def structured(logits_lbk: Tensor, targets: Tensor, *, sizes: Sequence[int], label_smoothing: float = 0.0) -> Tensor:
    """L_S, Eq. 4: cross-entropy of every nested ensemble, the full one included, summed.

    With other sizes than powers of two the sum keeps the weight that Eq. 4 has.
    """
    weight = (_smaller_powers(logits_lbk.shape[0]) + 1) / len(sizes)
    return weight * independent(nested_outputs(logits_lbk, sizes), targets, label_smoothing=label_smoothing)


def boosted(logits_lbk: Tensor, targets: Tensor, *, sizes: Sequence[int], label_smoothing: float = 0.0) -> Tensor:
    """L_S without co-adaptation: each nested ensemble trains only the networks that it adds to the one before.

    The sum of the earlier networks is a constant there, as in boosting, so that none is pulled by a larger ensemble.
    Each ensemble's cross-entropy counts as often as it has networks: a new network then sees its ensemble's whole
    residual, softmax(y_b) - y, where the mean in Eq. 1 would leave it 1/2^b of that.
    """
    total, done_bk, start = logits_lbk.new_zeros(()), torch.zeros_like(logits_lbk[0]), 0
    for size in sizes:
        sum_bk = done_bk + logits_lbk[start:size].sum(0)
        total = total + size * F.cross_entropy(sum_bk / size, targets, label_smoothing=label_smoothing)
        done_bk, start = sum_bk.detach(), size
    return total


def soft_labels(
    logits_lbk: Tensor, *, temperature: float, teacher_bk: Tensor | None = None, teacher_weight: float = 0.0
) -> Tensor:
    """What is distilled, (B, K): softmax(y_E / T), mixed with that of another teacher's logits if there is one."""
    labels_bk = F.softmax(logits_lbk.detach().mean(0) / temperature, dim=-1)
    if teacher_bk is None:
        return labels_bk
    return torch.lerp(labels_bk, F.softmax(teacher_bk.detach() / temperature, dim=-1), teacher_weight)


def distillation(logits_lbk: Tensor, labels_bk: Tensor, *, temperature: float) -> Tensor:
    """L_D, Eq. 5: every network, at its own temperature, learns from the soft labels."""
    return _soft_cross_entropy(logits_lbk, labels_bk, temperature)


def hierarchical_distillation(
    logits_lbk: Tensor, labels_bk: Tensor, *, sizes: Sequence[int], temperature: float
) -> Tensor:
    """L_HD, Eq. 6: every smaller nested ensemble (b = 0..B-1), at its own temperature, learns from the soft labels.

    With other sizes than powers of two the sum keeps the weight that Eq. 6 has, so that alpha means the same.
    """
    leaves = logits_lbk.shape[0]
    smaller = [size for size in sizes if size < leaves]
    if not smaller:  # a single network has no smaller ensemble: an empty sum
        return logits_lbk.new_zeros(())
    weight = _smaller_powers(leaves) / len(smaller)
    return weight * _soft_cross_entropy(nested_outputs(logits_lbk, smaller), labels_bk, temperature)


def objective(
    name: LossName,
    logits_lbk: Tensor,
    targets: Tensor,
    *,
    sizes: Sequence[int],
    alpha: float,
    temperature: float,
    student_temperature: float | None = None,
    label_smoothing: float = 0.0,
    teacher_bk: Tensor | None = None,
    teacher_weight: float = 0.0,
) -> Tensor:
    """What is minimised: L_I, L_S, its boosted form, or (1 - alpha) L_I + alpha (L_D or L_HD).

    `sizes` are those of the nested ensembles, `prefix_sizes`. Returns a scalar.

    Args:
        temperature: of the soft labels.
        student_temperature: of what learns from them; None: the same.
    """
    match name:
        case "i":
            return independent(logits_lbk, targets, label_smoothing=label_smoothing)
        case "s":
            return structured(logits_lbk, targets, sizes=sizes, label_smoothing=label_smoothing)
        case "boosted":
            return boosted(logits_lbk, targets, sizes=sizes, label_smoothing=label_smoothing)
    if student_temperature is None:
        student_temperature = temperature
    labels_bk = soft_labels(logits_lbk, temperature=temperature, teacher_bk=teacher_bk, teacher_weight=teacher_weight)
    if name == "d":
        distilled = distillation(logits_lbk, labels_bk, temperature=student_temperature)
    else:
        distilled = hierarchical_distillation(logits_lbk, labels_bk, sizes=sizes, temperature=student_temperature)
    return (1 - alpha) * independent(logits_lbk, targets, label_smoothing=label_smoothing) + alpha * distilled


def nested_outputs(logits_lbk: Tensor, sizes: Sequence[int]) -> Tensor:
    """y_b, Eq. 1: mean logits of the first `size` leaves, for each size: (S, B, K)."""
    return torch.stack([logits_lbk[:size].mean(0) for size in sizes])


def _smaller_powers(leaves: int) -> int:
    """How many powers of two are below N: the terms of Eq. 6."""
    return (leaves - 1).bit_length()


def _soft_cross_entropy(students_sbk: Tensor, labels_bk: Tensor, temperature: float) -> Tensor:
    """T^2 times the cross-entropy against soft labels, summed over S, mean over the batch."""
    log_probabilities_sbk = F.log_softmax(students_sbk / temperature, dim=-1)
    return -(temperature**2) * (labels_bk * log_probabilities_sbk).sum(-1).mean(-1).sum()
