"""What an image's stream of refinements is worth, beyond the accuracy of each size: does it pay to stop early, does the
answer keep changing, does more work ever make things worse.

Pure functions of the decisions at every ensemble size. Shape legend: N ensemble sizes, M images.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor

__all__ = ["THRESHOLDS", "BudgetFigures", "StreamFigures", "budgeted", "stream_figures"]

THRESHOLDS = (0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999)


class _Figures(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class BudgetFigures(_Figures):
    """One confidence that is enough, as a client's `min_confidence`. Size and FLOPs are means over the images."""

    threshold: float
    ensemble_size: float
    flops: float
    accuracy: float


class StreamFigures(_Figures):
    """How steady the refinements are."""

    flips: float
    """Changes of the predicted class from one size to the next, mean over images."""
    flipping: float
    """Share of the images (0..1) whose class changes at least once."""
    lost: float
    """Share of the images (0..1) that were right at some size and are wrong at the full one."""
    falls: int
    """Monotonicity violations: sizes whose accuracy is below that of the size before."""
    largest_fall: float
    """The deepest of them, 0..1."""


def budgeted(
    confidences_nm: Tensor, right_nm: Tensor, flops: Sequence[int], thresholds: Sequence[float] = THRESHOLDS
) -> list[BudgetFigures]:
    """Each image stops at the first size whose calibrated confidence reaches a threshold, or at the full one.

    Thresholds are a fixed grid, so none is chosen by what it does on these images.

    Args:
        right_nm: whether the prediction at a size is right.
        flops: of ensemble sizes 1..N.
    """
    costs_n = torch.tensor(flops, dtype=torch.double, device=right_nm.device)
    figures = []
    for threshold in thresholds:
        enough_nm = confidences_nm >= threshold
        enough_nm[-1] = True
        stops_m = enough_nm.byte().argmax(0)
        figures.append(
            BudgetFigures(
                threshold=threshold,
                ensemble_size=stops_m.double().mean().item() + 1,
                flops=costs_n[stops_m].mean().item(),
                accuracy=right_nm.gather(0, stops_m[None]).double().mean().item(),
            )
        )
    return figures


def stream_figures(predicted_nm: Tensor, right_nm: Tensor) -> StreamFigures:
    """Flips and falls of the predicted classes at sizes 1..N."""
    changes_nm = predicted_nm[1:] != predicted_nm[:-1]
    falls = (-right_nm.double().mean(1).diff()).clamp(min=0)
    return StreamFigures(
        flips=changes_nm.sum(0).double().mean().item(),
        flipping=changes_nm.any(0).double().mean().item(),
        lost=(right_nm.any(0) & ~right_nm[-1]).double().mean().item(),
        falls=int((falls > 0).sum().item()),
        largest_fall=falls.max().item() if len(falls) else 0.0,
    )
