"""The tables and the picture of a comparison, from its record."""

from __future__ import annotations

from pathlib import Path
from statistics import median

import matplotlib
from matplotlib.figure import Figure

from benchmarks.peers.record import Record

__all__ = ["plot", "print_tables"]

OURS, PEERS = "#1f4e8c", ("#c0504d", "#d99a3d", "#5b9b68", "#8064a2")


def print_tables(record: Record) -> None:
    """Overhead, then goodput: a line per server and networks, a column per rho, the median of the repeats."""
    alone = [row for row in record.rows if row["deadline"] == "none"]
    if alone:
        print("\none request at a time, the single network: ms")
    for server in dict.fromkeys(row["server"] for row in alone):
        rows = [row for row in alone if row["server"] == server]
        p50, overhead = (median(row[name] for row in rows) for name in ("p50 ms", "overhead ms"))
        print(f"{server:>12}  p50 {p50:6.2f}  overhead {overhead:6.2f}")
    for deadline in _deadlines(record):
        rhos = sorted({row["rho"] for row in record.rows if row["deadline"] == deadline})
        limit = next(row["deadline ms"] for row in record.rows if row["deadline"] == deadline)
        print(f"\ngoodput (correct and on time, % of offered), deadline {deadline} = {limit:.1f} ms")
        print(f"{'server':>12}  networks" + "".join(f"  rho {rho:<4g}" for rho in rhos))
        for (server, networks), goodputs in _lines(record, deadline).items():
            cells = (f"{100 * goodputs[rho]:10.1f}" if rho in goodputs else f"{'-':>10}" for rho in rhos)
            print(f"{server:>12}  {networks:>8}" + "".join(cells))
    invalid = sum(not row["valid"] for row in record.rows if row["deadline"] != "none")
    if invalid:
        print(f"\nin {invalid} cells the client fell behind; their rows say valid: false")


def plot(record: Record, path: Path) -> None:
    """Goodput against rho, one panel per deadline; peers solid with the full ensemble, dashed with one network."""
    deadlines = _deadlines(record)
    if not deadlines:
        return
    figure = Figure(figsize=(2 + 4.4 * len(deadlines), 4.2), layout="constrained")
    panels = figure.subplots(1, len(deadlines), sharey=True, squeeze=False)[0]
    names = sorted({row["server"] for row in record.rows} - {"hne-serve"})
    colours = dict(zip(names, PEERS, strict=False)) | {"hne-serve": OURS}
    for axes, deadline in zip(panels, deadlines, strict=True):
        for (server, networks), goodputs in _lines(record, deadline).items():
            ours = server == "hne-serve"
            axes.plot(
                sorted(goodputs),
                [100 * goodputs[rho] for rho in sorted(goodputs)],
                "o-" if ours or networks > 1 else "o--",
                color=colours[server],
                linewidth=2.4 if ours else 1.2,
                markersize=4,
                label=server if ours else f"{server}, {'one network' if networks == 1 else f'{networks} networks'}",
            )
        axes.set_xscale("log", base=2)
        rhos = sorted({row["rho"] for row in record.rows if row["deadline"] == deadline})
        axes.set_xticks(rhos, [f"{rho:g}" for rho in rhos])
        axes.set_xlabel("offered / capacity of the full ensemble")
        axes.set_title(f"deadline {deadline}" if deadline.endswith("x") else f"deadline {deadline} ms", fontsize=10)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", alpha=0.3)
    panels[0].set_ylabel("correct and on time, % of offered")
    panels[0].set_ylim(bottom=0)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right upper", fontsize=8)
    with matplotlib.rc_context({"svg.hashsalt": "hne"}):
        figure.savefig(path, metadata={"Date": None})


def _deadlines(record: Record) -> list[str]:
    return list(dict.fromkeys(row["deadline"] for row in record.rows if row["deadline"] != "none"))


def _lines(record: Record, deadline: str) -> dict[tuple[str, int], dict[float, float]]:
    """Median goodput by server and networks, then by rho."""
    found: dict[tuple[str, int], dict[float, list[float]]] = {}
    for row in record.rows:
        if row["deadline"] == deadline:
            by_rho = found.setdefault((row["server"], row["networks"]), {})
            by_rho.setdefault(row["rho"], []).append(row["goodput"])
    return {key: {rho: median(values) for rho, values in by_rho.items()} for key, by_rho in found.items()}
