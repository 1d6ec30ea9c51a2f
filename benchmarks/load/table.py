"""The table of the overload benchmark: medians and ranges over the repeats, and how far policies are apart."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from statistics import median
from typing import Any

from benchmarks.load.grid import OURS, Cell

__all__ = ["comparison", "rows"]

Figures = Mapping[str, Any]
Row = dict[str, Any]


def rows(cells: Iterable[Cell], figures: Mapping[str, Figures]) -> list[Row]:
    """A row for each point and policy; `figures` are the summaries by the cells' keys."""
    repeats: dict[tuple[Any, ...], list[Cell]] = {}
    for cell in cells:
        repeats.setdefault((cell.setting, cell.rho, cell.policy), []).append(cell)
    return [_row(same, [figures[cell.key] for cell in same]) for same in repeats.values()]


def comparison(table: Sequence[Row]) -> list[Row]:
    """`anytime` against each other policy: how much more goodput it has at its worst and at its best point (medians),
    and at how many points it is at or above within the repeats' ranges.
    """
    ours = {_point(row): row for row in table if row["policy"] == OURS}
    found = []
    for policy in dict.fromkeys(row["policy"] for row in table if row["policy"] != OURS):
        pairs = [(ours[_point(row)], row) for row in table if row["policy"] == policy and _point(row) in ours]
        if pairs:
            gains = [100 * (own["goodput"] - other["goodput"]) for own, other in pairs]
            held = sum(own["goodput high"] >= other["goodput low"] for own, other in pairs)
            found.append(
                {
                    "anytime against": policy,
                    "least gain, points": min(gains),
                    "greatest gain, points": max(gains),
                    "at or above": held,
                    "of": len(pairs),
                }
            )
    return found


def _row(cells: Sequence[Cell], runs: Sequence[Figures]) -> Row:
    sizes = Counter[str]()
    for run in runs:
        sizes.update({str(size): count for size, count in run["sizes"].items()})
    return {
        **asdict(cells[0].setting),
        "rho": cells[0].rho,
        "policy": cells[0].policy,
        "margin": cells[0].margin,
        **{name: _median([run[name] for run in runs]) for name in runs[0] if name not in ("sizes", "valid")},
        "goodput low": min(run["goodput"] for run in runs),
        "goodput high": max(run["goodput"] for run in runs),
        "sizes": dict(sorted(sizes.items(), key=lambda item: int(item[0]))),
        "valid": all(run["valid"] for run in runs),
    }


def _point(row: Row) -> tuple[float, ...]:
    return row["cv2"], row["slack"], row["faults"], row["rho"]


def _median(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return median(known) if known else None
