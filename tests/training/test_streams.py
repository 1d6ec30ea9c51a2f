"""Streams of refinements: four images at three ensemble sizes, worked out by hand."""

from __future__ import annotations

import torch

from training.streams import budgeted, stream_figures

LABELS = torch.tensor([0, 1, 2, 0])
PREDICTED = torch.tensor([[0, 0, 2, 0], [0, 1, 1, 1], [0, 1, 1, 0]])
"""Always right; right from size 2 on; lost at size 2; lost and found."""
RIGHT = PREDICTED == LABELS
FLOPS = (10, 15, 30)


def test_flips_and_falls() -> None:
    figures = stream_figures(PREDICTED, RIGHT)
    assert figures.flips == (0 + 1 + 1 + 2) / 4
    assert figures.flipping == 3 / 4
    assert figures.lost == 1 / 4
    assert (figures.falls, figures.largest_fall) == (1, 1 / 4)  # 3, 2, 3 of 4 are right


def test_one_size_neither_flips_nor_falls() -> None:
    figures = stream_figures(PREDICTED[:1], RIGHT[:1])
    assert (figures.flips, figures.falls, figures.largest_fall) == (0, 0, 0)


def test_an_image_stops_where_its_confidence_is_enough() -> None:
    confidences = torch.tensor([[0.9, 0.4, 0.7, 0.3], [0.9, 0.8, 0.2, 0.4], [0.9, 0.9, 0.9, 0.4]])
    all_first, middle, none = budgeted(confidences, RIGHT, FLOPS, thresholds=(0.0, 0.75, 0.95))
    assert (all_first.ensemble_size, all_first.flops, all_first.accuracy) == (1, 10, 3 / 4)
    # Sizes 1, 2, 3 and, never confident, 3.
    assert (middle.ensemble_size, middle.flops) == (9 / 4, (10 + 15 + 30 + 30) / 4)
    assert middle.accuracy == 3 / 4
    assert (none.ensemble_size, none.flops, none.accuracy) == (3, 30, 3 / 4)
