"""A running average of the weights, which generalises better than the last step's (Polyak; Izmailov et al. 2018).

The average runs over batch norm's statistics too, with the same decay: that needs no pass over the training images
before each evaluation, so that the average can be evaluated at any moment of a training.
"""

from __future__ import annotations

from copy import deepcopy

import torch
from torch import Tensor

from model_core.grouped import HierarchicalEnsemble

__all__ = ["WeightAverage"]


class WeightAverage:
    """The exponential moving average of a model, as a second model on the same device.

    Args:
        model: the one that is trained; the average starts from its present state, or from `stored`.
        decay: per step, in 0..1. Early steps use a smaller one, so that the initial weights are soon forgotten.
    """

    def __init__(self, model: HierarchicalEnsemble, *, decay: float, stored: dict[str, Tensor]) -> None:
        self.model = deepcopy(model).requires_grad_(False)
        if stored:
            self.model.load_state_dict(stored)
        self._decay = decay
        ours, theirs = self.model.state_dict(), model.state_dict()
        real = [name for name, tensor in ours.items() if tensor.is_floating_point()]
        self._average, self._current = [ours[name] for name in real], [theirs[name] for name in real]
        counters = sorted(ours.keys() - set(real))
        self._counters = [ours[name] for name in counters], [theirs[name] for name in counters]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the model's present state, after `step` (from 0, counted over the whole run)."""
        weight = 1 - min(self._decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self._average, self._current, weight)
        ours, theirs = self._counters
        if ours:
            torch._foreach_copy_(ours, theirs)
