"""The pictures of the load benchmarks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import mean
from typing import Any

__all__ = ["draw_burst", "draw_latency", "draw_overload"]

Row = dict[str, Any]


def draw_overload(table: Sequence[Row], path: Path) -> None:
    """Goodput and mean ensemble size over rho, a line for each policy, a column for each setting."""
    from matplotlib.figure import Figure  # here, so that the figures need no matplotlib

    panels = list(dict.fromkeys((row["cv2"], row["slack"], row["faults"]) for row in table))
    policies = list(dict.fromkeys(row["policy"] for row in table))
    figure = Figure(figsize=(3.2 * len(panels) + 2, 6.5), layout="constrained")
    axes = figure.subplots(2, len(panels), sharex=True, sharey="row", squeeze=False)
    for (above, below), panel in zip(axes.T, panels, strict=True):
        for number, policy in enumerate(policies):
            own = [row for row in table if (row["cv2"], row["slack"], row["faults"], row["policy"]) == (*panel, policy)]
            rhos = [row["rho"] for row in own]
            style = {"linewidth": 2.5, "zorder": 3} if policy == "anytime" else {"linewidth": 1}
            style |= {"color": f"C{number}", "marker": ".", "label": policy}
            above.plot(rhos, [100 * row["goodput"] for row in own], **style)
            low, high = ([100 * row[f"goodput {end}"] for row in own] for end in ("low", "high"))
            above.fill_between(rhos, low, high, color=f"C{number}", alpha=0.2)
            below.plot(rhos, [row["mean size"] for row in own], **style)
        cv2, slack, faults = panel
        arrivals = "Poisson" if cv2 == 1 else f"Gamma, CV² {cv2:g}"
        above.set_title(f"{arrivals}, deadline {slack:g}x\n{faults:.0%} of the steps slowed", fontsize="small")
        ticks = sorted({row["rho"] for row in table})
        below.set(xscale="log", xlabel="offered / full ensemble's capacity")
        below.set_xticks(ticks, [f"{tick:g}" for tick in ticks], fontsize="x-small")
        below.minorticks_off()
    axes[0, 0].set(ylabel="correct and on time / offered (%)", ylim=(0, None))
    axes[1, 0].set(ylabel="mean ensemble size", ylim=(0, None))
    figure.legend(*axes[0, 0].get_legend_handles_labels(), loc="outside right upper", fontsize="small")
    _save(figure, path)


def draw_burst(series: Sequence[Sequence[Row]], start: float, stop: float, path: Path) -> None:
    """Offered rate, mean ensemble size and goodput over time, thin for each repeat, thick for their mean."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 6.5), layout="constrained")
    axes = figure.subplots(3, sharex=True)
    names = {"offered/s": "offered (1/s)", "mean size": "mean ensemble size", "goodput": "goodput"}
    for axis, (name, text) in zip(axes, names.items(), strict=True):
        instants = [row["at"] for row in series[0]]
        for repeat in series:
            values = [float("nan") if row[name] is None else row[name] for row in repeat]
            axis.plot(instants, values, linewidth=0.7, color="0.6")
        bins = ([row[name] for row in rows if row[name] is not None] for rows in zip(*series, strict=True))
        axis.plot(instants, [mean(values) if values else float("nan") for values in bins], linewidth=2)
        axis.axvspan(start, stop, color="0.9")
        axis.set(ylabel=text, ylim=(0, None))
    axes[-1].set_xlabel("seconds, by intended send time")
    _save(figure, path)


def draw_latency(rows: Sequence[Row], device: str, path: Path) -> None:
    """Milliseconds over the ensemble size, a colour for each batch, a column for each precision."""
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D
    from matplotlib.ticker import LogLocator

    precisions = list(dict.fromkeys(row["precision"] for row in rows))
    batches = list(dict.fromkeys(row["batch"] for row in rows))
    styles = {"wide": ("one segment", "-"), "steps": ("steps", "--"), "eager": ("without graphs", ":")}
    figure = Figure(figsize=(4.5 * len(precisions) + 1.5, 4.5), layout="constrained")
    axes = figure.subplots(1, len(precisions), sharey=True, squeeze=False)[0]
    for axis, precision in zip(axes, precisions, strict=True):
        for number, batch in enumerate(batches):
            own = [row for row in rows if (row["precision"], row["batch"]) == (precision, batch)]
            sizes = [row["N"] for row in own]
            for way, (_, style) in styles.items():
                axis.plot(sizes, [row[f"{way} ms"] for row in own], style, color=f"C{number}", marker=".")
            axis.plot(sizes, [row["grouped ms"] or float("nan") for row in own], "x", color=f"C{number}")
        axis.set(xscale="log", yscale="log", xlabel="ensemble size N", title=precision)
        axis.set_xticks(sizes, [str(size) for size in sizes])
        axis.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.yaxis.set_major_formatter("{x:g}")
        axis.minorticks_off()
    axes[0].set_ylabel("milliseconds")
    legend = [Line2D([], [], color=f"C{number}", label=f"batch {batch}") for number, batch in enumerate(batches)]
    for name, style in styles.values():
        legend += axes[0].plot([], [], style, color="0.3", label=name)
    if any(row["grouped ms"] for row in rows):
        legend += [Line2D([], [], color="0.3", linestyle="", marker="x", label="grouped form, compiled")]
    figure.legend(handles=legend, loc="outside right upper", fontsize="small")
    figure.suptitle(device, size="small")
    _save(figure, path)


def _save(figure: Any, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
    print(f"drawn to {path}")
