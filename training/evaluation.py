"""Evaluates every ensemble size of a model.

Shape legend: L leaves, M images, B batch, K classes.
"""

from __future__ import annotations

import torch
from torch import Tensor

from model_core.grouped import HierarchicalEnsemble, prefix_means
from training.images import Images

__all__ = ["leaf_logits", "prefix_accuracies"]

BATCH = 250


@torch.inference_mode()
def leaf_logits(model: HierarchicalEnsemble, images: Images, *, bf16: bool = False) -> tuple[Tensor, Tensor]:
    """Logits of every leaf for a whole split, (L, M, K) float32, and its labels (M,).

    The model is left in evaluation mode.
    """
    model.eval()
    logits, labels = [], []
    for batch, targets in images.evaluation_batches(BATCH):
        with torch.autocast(batch.device.type, torch.bfloat16, enabled=bf16):
            logits.append(model(batch).float())
        labels.append(targets)
    return torch.cat(logits, dim=1), torch.cat(labels)


def prefix_accuracies(logits_lmk: Tensor, labels_m: Tensor) -> list[float]:
    """Accuracy (0..1) of each ensemble size 1..L."""
    correct_lm = prefix_means(logits_lmk).argmax(-1) == labels_m
    return correct_lm.double().mean(1).tolist()
