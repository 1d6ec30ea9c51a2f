"""The picture of an evaluation, after Figures 3 and 4 of the paper."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

from training.evaluation import Evaluation

__all__ = ["plot_evaluation"]

CURVE, BARS, STOPPED = "#1f4e8c", "#c9d6e8", "#d1651a"


def plot_evaluation(evaluation: Evaluation, *paths: Path) -> None:
    """Accuracy of every ensemble size against FLOPs beside that of stopping early, single leaves as bars, and the
    logits' deviation below.

    Each path's suffix decides the format, such as `.svg` or `.png`. The same figures give the same file.
    """
    rows = evaluation.sizes
    mflops = [row.flops / 1e6 for row in rows]
    gaps = [right - left for left, right in pairwise(mflops)]
    accuracies = [100 * row.accuracy for row in rows]
    leaves = [100 * accuracy for accuracy in evaluation.leaf_accuracies]

    figure = Figure(figsize=(6.4, 5.6), layout="constrained")
    top, bottom = figure.subplots(2, sharex=True, height_ratios=(3, 1))
    top.bar(mflops, leaves, width=0.7 * min(gaps, default=1), color=BARS, label="one leaf alone")
    top.plot(mflops, accuracies, "o-", color=CURVE, markersize=4, label="the first N leaves together")
    if evaluation.budgeted:
        budgeted = [(row.flops / 1e6, 100 * row.accuracy) for row in evaluation.budgeted]
        top.plot(*zip(*budgeted, strict=True), ":", color=STOPPED, label="stopped when confident, mean FLOPs")
    for row, x, y in zip(rows, mflops, accuracies, strict=True):
        if row.ensemble_size & (row.ensemble_size - 1) == 0:
            top.annotate(f"N={row.ensemble_size}", (x, y), (0, 7), textcoords="offset points", ha="center", fontsize=8)
    low, high = min(*leaves, *accuracies), max(*leaves, *accuracies)
    margin = max(0.2 * (high - low), 0.5)
    top.set_ylim(low - margin, high + margin)
    top.set_ylabel("accuracy (%)")
    top.set_title(f"{evaluation.architecture} on {evaluation.evaluated_on}", fontsize=10)
    top.legend(loc="lower right", fontsize=8)
    bottom.plot(mflops, [row.logit_std for row in rows], "o-", color=CURVE, markersize=4)
    bottom.set_ylabel("std of logits")
    if (stream := evaluation.stream) is not None:
        words = (
            f"{stream.flips:.2f} changes of class per image; accuracy falls at {stream.falls} of {len(rows) - 1} steps"
        )
        bottom.set_title(words, fontsize=8)
    bottom.set_xlabel("FLOPs of one image (millions of multiply-adds)")
    for axes in (top, bottom):
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", alpha=0.3)
    with matplotlib.rc_context({"svg.hashsalt": "hne"}):
        for path in paths:
            metadata = {"Date": None} if path.suffix == ".svg" else None
            figure.savefig(path, dpi=150, metadata=metadata)
