"""Calibration: how far confidence can be trusted, and the temperature that repairs it.

Shape legend: M images, K classes.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.nn import functional as F

__all__ = ["expected_calibration_error", "fitted_temperature", "negative_log_likelihood"]

BINS = 15
LOWEST, HIGHEST = 0.05, 20.0
_GOLDEN = (math.sqrt(5) - 1) / 2


def negative_log_likelihood(logits_mk: Tensor, labels_m: Tensor, *, temperature: float = 1.0) -> float:
    """Mean -log softmax(logits / temperature) of the label, in nats."""
    return F.cross_entropy(logits_mk / temperature, labels_m).item()


def expected_calibration_error(logits_mk: Tensor, labels_m: Tensor, *, temperature: float = 1.0) -> float:
    """Mean gap between confidence and accuracy over 15 equal bins of confidence, 0..1 (Guo et al. 2017)."""
    confidence_m, predicted_m = F.softmax(logits_mk / temperature, dim=-1).max(-1)
    bins_m = (confidence_m * BINS).long().clamp(max=BINS - 1)
    surplus_m = confidence_m.double() - (predicted_m == labels_m).double()
    gaps = torch.zeros(BINS, dtype=torch.double, device=logits_mk.device).index_add(0, bins_m, surplus_m)
    return gaps.abs().sum().item() / len(labels_m)


def fitted_temperature(logits_mk: Tensor, labels_m: Tensor, *, tolerance: float = 1e-4) -> float:
    """The temperature in 0.05..20 with the least negative log-likelihood, to a relative `tolerance`.

    Golden-section search over log T: the likelihood is convex in 1/T, so it has one minimum there. Where every image
    is classified correctly that minimum is T = 0, and the answer is the lower limit.
    """
    low, high = math.log(LOWEST), math.log(HIGHEST)

    def loss(log_temperature: float) -> float:
        return negative_log_likelihood(logits_mk, labels_m, temperature=math.exp(log_temperature))

    left, right = high - _GOLDEN * (high - low), low + _GOLDEN * (high - low)
    loss_left, loss_right = loss(left), loss(right)
    while high - low > tolerance:
        # At equality prefer the smaller T: with every image right, the loss rounds to zero on a plateau.
        if loss_left <= loss_right:
            high, right, loss_right = right, left, loss_left
            left = high - _GOLDEN * (high - low)
            loss_left = loss(left)
        else:
            low, left, loss_left = left, right, loss_right
            right = low + _GOLDEN * (high - low)
            loss_right = loss(right)
    return math.exp((low + high) / 2)
