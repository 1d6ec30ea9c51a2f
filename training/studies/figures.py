"""How studies are drawn, after the paper's figures. A study's figure takes the lines that it is made of."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from textwrap import fill
from typing import cast

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from training.studies.published import CURVES
from training.studies.record import Line, Spread
from training.studies.study import Protocol, Study

__all__ = ["curves", "gains", "leaves", "save_figure", "state_of_the_art"]

COLORS = ("#1f4e8c", "#d1651a", "#3b8f5a", "#8a4fa3", "#b8336a", "#6b6b6b", "#2a9db0", "#a1812a", "#5b5bd6", "#c24f4f")
MARKERS = "osD^vPX<>*"
OURS = "#b3202a"
"""The colour of hierarchical distillation, in every figure."""
FLOPS = "FLOPs of one image (millions of multiply-adds)"


def save_figure(
    study: Study, lines: Sequence[Line], protocol: Protocol, *, caption: str, paths: Sequence[Path]
) -> None:
    """Draw a study to files; each path's suffix decides the format. The same records give the same files.

    The records that the figure shows are named below it.
    """
    assert study.draw is not None
    width, height = study.size
    rows = len(_by_architecture(lines)) if study.draw is leaves else 1
    figure = Figure(figsize=(width, height * rows), layout="constrained")
    study.draw(figure, lines, protocol)
    figure.suptitle(fill(caption, int(13 * width)), fontsize=10)
    several = len(_by_architecture(lines)) > 1
    records = "; ".join(f"{line.network + ', ' if several else ''}{line.label} {line.digests}" for line in lines)
    figure.supxlabel(fill(f"Runs: {records}", int(19 * width)), fontsize=6, color="#555555")
    with matplotlib.rc_context({"svg.hashsalt": "hne"}):
        for path in paths:
            metadata = {"Date": None, "Title": study.title, "Description": records} if path.suffix == ".svg" else {}
            figure.savefig(path, dpi=160, metadata=metadata)


def curves(figure: Figure, lines: Sequence[Line], protocol: Protocol) -> None:
    """Figures 3, 5 and 9: accuracy above, deviation of the logits below, against FLOPs; a column per architecture."""
    groups = _by_architecture(lines)
    panels = figure.subplots(2, len(groups), sharex="col", squeeze=False, height_ratios=(3, 2))
    for (top, bottom), group in zip(panels.T, groups, strict=True):
        for index, line in enumerate(group):
            mflops = [line.mflops(size) for size in line.sizes]
            style = _style(line, index)
            _spread(top, mflops, [line.accuracy(size) for size in line.sizes], label=line.label, **style)
            _spread(bottom, mflops, [line.at(size, lambda row: row.logit_std) for size in line.sizes], **style)
        top.set_title(group[0].network, fontsize=10)
        top.set_ylabel("accuracy (%)")
        top.legend(fontsize=8, loc="best")
        bottom.set_ylabel("std of logits")
        bottom.set_xlabel(FLOPS)
        _flops_axis(bottom, sorted({line.mflops(size) for line in group for size in line.sizes}))
        for axes in (top, bottom):
            _tidy(axes)


def leaves(figure: Figure, lines: Sequence[Line], protocol: Protocol) -> None:
    """Figure 4: a panel per way of training; a curve for ensembles of the first N, a bar for every network alone."""
    groups = _by_architecture(lines)
    columns = max(len(group) for group in groups)
    panels = figure.subplots(len(groups), columns, sharey="row", squeeze=False)
    for row, group in zip(panels, groups, strict=True):
        for axes in row[len(group) :]:
            axes.set_visible(False)
        for index, (axes, line) in enumerate(zip(row, group, strict=False)):
            style = _style(line, index)
            bars = line.leaf_accuracies
            networks = range(1, len(bars) + 1)
            axes.bar(networks, bars, color=style["color"], alpha=0.3, label="each network alone")
            _spread(axes, list(networks), [line.accuracy(n) for n in networks], label="the first N together", **style)
            axes.set_title(line.label, fontsize=10)
            axes.set_xlabel("network, or networks N")
            axes.set_xticks(line.sizes)
            axes.legend(fontsize=7, loc="upper left")
            _tidy(axes)
        values = [v for line in group for v in (*line.leaf_accuracies, *(line.accuracy(n).mean for n in line.sizes))]
        margin = max(0.15 * (max(values) - min(values)), 0.5)
        row[0].set_ylim(min(values) - 2 * margin, max(values) + 3 * margin)
        row[0].set_ylabel(f"{group[0].network}: accuracy (%)")


def state_of_the_art(figure: Figure, lines: Sequence[Line], protocol: Protocol) -> None:
    """Figure 6: ours, of up to eight networks as in the paper, beside published points."""
    axes = figure.subplots()
    for index, line in enumerate(lines):
        sizes = [size for size in line.sizes if size <= 8]
        mflops = [line.mflops(size) for size in sizes]
        marker = MARKERS[index]
        label = f"{line.network} (ours, anytime)"
        _spread(axes, mflops, [line.accuracy(n) for n in sizes], color=OURS, marker=marker, linewidth=2, label=label)
        if line.budgeted:
            x, y = zip(*line.budgeted, strict=True)
            axes.plot(x, y, ":", color=OURS, linewidth=1.2, label=f"{line.network} (ours, stopped when confident)")
    for index, curve in enumerate(curve for curve in CURVES if curve.benchmark == protocol.benchmark):
        low, high, accuracy = np.array(curve.points).T
        axes.errorbar(
            (low + high) / 2,
            accuracy,
            xerr=(high - low) / 2,
            color=COLORS[index],
            marker=MARKERS[index + 3],
            markersize=5,
            linestyle="--",
            linewidth=0.8,
            capsize=2,
            label=curve.system,
        )
    axes.set_xlabel(FLOPS)
    axes.set_ylabel("accuracy (%)")
    axes.legend(fontsize=8, loc="best")
    _flops_axis(axes, [10, 20, 50, 100, 200])
    _tidy(axes)


def gains(figure: Figure, lines: Sequence[Line], protocol: Protocol) -> None:
    """The ablation: points gained over the first line at every ensemble size; a panel per architecture."""
    groups = _by_architecture(lines)
    for axes, group in zip(figure.subplots(1, len(groups), squeeze=False)[0], groups, strict=True):
        base, sizes = group[0], group[0].sizes
        places = np.arange(len(sizes))
        axes.axhline(0, color="black", linewidth=1)
        bars = group[1:]
        width = 0.85 / max(1, len(bars))
        for index, line in enumerate(bars):
            points = [line.accuracy(size).mean - base.accuracy(size).mean for size in sizes]
            deviations = [line.accuracy(size).deviation or 0 for size in sizes]
            offset = (index - (len(bars) - 1) / 2) * width
            again, color = divmod(index, len(COLORS))
            axes.bar(
                places + offset,
                points,
                yerr=deviations,
                ecolor="#333333",
                error_kw={"linewidth": 0.7},
                width=0.9 * width,
                color=COLORS[color],
                hatch="////" if again else None,
                edgecolor="white",
                linewidth=0,
                label=line.label,
            )
        axes.set_xticks(places, [f"N = {size}" for size in sizes])
        axes.set_ylabel(f"{base.network}: points over {base.label}")
        if bars:
            axes.legend(fontsize=7, ncols=3, loc="upper center", bbox_to_anchor=(0.5, -0.08), frameon=False)
        _tidy(axes)


def _by_architecture(lines: Sequence[Line]) -> list[list[Line]]:
    names = dict.fromkeys(line.architecture for line in lines)
    return [[line for line in lines if line.architecture == name] for name in names]


def _style(line: Line, index: int) -> dict[str, str]:
    ours = line.label.startswith("Hierarchical")
    return {"color": OURS if ours else COLORS[index], "marker": "*" if ours else MARKERS[index]}


def _spread(axes: Axes, x: Sequence[float], values: Sequence[Spread], **style: object) -> None:
    """A curve of means, with a band of one standard deviation where there are several seeds."""
    means = np.array([value.mean for value in values])
    axes.plot(x, means, **{"markersize": 5, **style})  # type: ignore[arg-type]
    if all(value.deviation is not None for value in values):
        deviations = np.array([value.deviation for value in values], dtype=float)
        axes.fill_between(x, means - deviations, means + deviations, color=cast(str, style["color"]), alpha=0.15, lw=0)


def _flops_axis(axes: Axes, ticks: Sequence[float]) -> None:
    """Logarithmic, since sizes double; ticks where they leave room for their numbers."""
    axes.set_xscale("log")
    shown = [tick for index, tick in enumerate(ticks) if not index or tick > 1.15 * ticks[index - 1]]
    axes.set_xticks(shown, [f"{tick:.3g}" for tick in shown])
    axes.minorticks_off()


def _tidy(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
    axes.grid(axis="y", alpha=0.3)
