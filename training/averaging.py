"""A running average of the weights, which generalises better than the last step's (Polyak; Izmailov et al. 2018).

An exponential one runs over batch norm's statistics too, with the same decay: the weights that it remembers are all but
the present ones, and it needs no pass over training images before each evaluation. An even one (SWA) is of weights that
lie far apart, whose statistics are not its own: these are estimated anew, `settle`.
"""

from __future__ import annotations

from collections.abc import Iterable
from copy import deepcopy

import torch
from torch import Tensor
from torch.nn.modules.batchnorm import _BatchNorm

from model_core.grouped import HierarchicalEnsemble

__all__ = ["SETTLED", "WeightAverage", "new_average"]

SETTLED = 40
"""Batches that batch norm's statistics of an even average are estimated from: 5,000 of CIFAR's images."""


def new_average(
    model: HierarchicalEnsemble, *, ema: float, swa: float, steps: int, stored: dict[str, Tensor]
) -> WeightAverage | None:
    """The average that the settings ask for, over a training of so many steps; None where they ask for none."""
    if swa:
        return WeightAverage(model, decay=None, stored=stored, since=round((1 - swa) * steps))
    return WeightAverage(model, decay=ema, stored=stored) if ema else None


class WeightAverage:
    """The average of a model over its steps, as a second model on the same device.

    Args:
        model: the one that is trained; the average starts from its present state, or from `stored`.
        decay: of an exponential average, per step, in 0..1. Early steps use a smaller one, so that the initial weights
            are soon forgotten. None: all steps from `since` on count the same.
        since: the step that is the first of an even average; up to it the average is the model itself.
    """

    def __init__(
        self, model: HierarchicalEnsemble, *, decay: float | None, stored: dict[str, Tensor], since: int = 0
    ) -> None:
        self.model = deepcopy(model).requires_grad_(False)
        if stored:
            self.model.load_state_dict(stored)
        self._decay, self._since = decay, since
        ours, theirs = self.model.state_dict(), model.state_dict()
        names = {tensor.data_ptr(): name for name, tensor in ours.items()}.values()  # what layers share counts once
        real = [name for name in names if ours[name].is_floating_point()]
        self._average, self._current = [ours[name] for name in real], [theirs[name] for name in real]
        counters = sorted(set(names) - set(real))
        self._counters = [ours[name] for name in counters], [theirs[name] for name in counters]

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Take in the model's present state, after `step` (from 0, counted over the whole run)."""
        if self._decay is None:
            weight = 1 / (max(step - self._since, 0) + 1)
        else:
            weight = 1 - min(self._decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(self._average, self._current, weight)
        ours, theirs = self._counters
        if ours:
            torch._foreach_copy_(ours, theirs)

    def is_even_after(self, steps: int) -> bool:
        """Whether it is the even average of one step's weights or more, so that it has to be settled."""
        return self._decay is None and steps > self._since

    @torch.no_grad()
    def settle(self, batches: Iterable[Tensor]) -> None:
        """Replace batch norm's statistics by their means over batches of images (B, C, H, W).

        Where these cannot be read, which raises whatever it raises, the statistics stay as they are.
        """
        norms = [norm for norm in self.model.modules() if isinstance(norm, _BatchNorm) and norm.track_running_stats]
        if not norms:
            return
        momenta = [norm.momentum for norm in norms]
        statistics = [buffer for norm in norms for buffer in norm.buffers()]
        before = [buffer.clone() for buffer in statistics]
        self.model.eval()
        for norm in norms:
            norm.reset_running_stats()
            norm.train().momentum = None  # the mean of all batches
        try:
            for images in batches:
                self.model(images)
        except BaseException:
            torch._foreach_copy_(statistics, before)
            raise
        finally:
            for norm, momentum in zip(norms, momenta, strict=True):
                norm.eval().momentum = momentum
