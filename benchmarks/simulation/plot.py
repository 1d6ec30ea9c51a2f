"""The picture of a simulation: goodput and mean ensemble size over the load, a line for each policy."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

__all__ = ["draw"]


def draw(rows: Sequence[dict[str, Any]], path: Path, *, title: str) -> None:
    """Write a PNG."""
    from matplotlib.figure import Figure  # here, so that the figures need no matplotlib

    figure = Figure(figsize=(7, 8), layout="constrained")
    above, below = figure.subplots(2, sharex=True)
    for policy in dict.fromkeys(row["policy"] for row in rows):
        own = [row for row in rows if row["policy"] == policy]
        rhos, bold = [row["rho"] for row in own], {"linewidth": 2.5, "zorder": 3} if policy == "anytime" else {}
        (line,) = above.plot(rhos, [100 * row["goodput"] for row in own], marker="o", label=policy, **bold)
        low, high = zip(*(row["goodput_range"] for row in own), strict=True)
        above.fill_between(rhos, [100 * v for v in low], [100 * v for v in high], color=line.get_color(), alpha=0.2)
        below.plot(rhos, [row["mean_size"] for row in own], marker="o", color=line.get_color(), **bold)
    bounds = {row["rho"]: 100 * row["bound"] for row in rows}
    above.plot(list(bounds), list(bounds.values()), color="black", linestyle="--", label="clairvoyant bound")
    above.set(title=title, ylabel="correct and on time / offered (%)", xscale="log")
    above.legend(fontsize="small")
    ticks = sorted(bounds)
    below.set(xlabel="load / capacity of the full ensemble", ylabel="mean ensemble size")
    below.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    below.minorticks_off()
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=120)
