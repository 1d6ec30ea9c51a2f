"""Inference copies: batch norm folded into the convolutions, which is also how FLOPs are counted."""

from __future__ import annotations

import copy

from model_core.grouped import HierarchicalEnsemble
from model_core.layers import fold_batch_norm

__all__ = ["folded"]


def folded(model: HierarchicalEnsemble) -> HierarchicalEnsemble:
    """A copy of a model for inference, with every batch norm of its `ConvNorm` layers folded away."""
    copied = copy.deepcopy(model).eval().requires_grad_(False)
    fold_batch_norm(copied)
    return copied
