"""The report of a benchmark: a table for people, and JSON that says how it came about."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.conditions import code, machine

__all__ = ["print_table", "write_report"]


def write_report(
    path: Path,
    benchmark: str,
    card: dict[str, Any],
    rows: Sequence[dict[str, Any]],
    *,
    columns: Sequence[str] | None = None,
    **how: Any,
) -> None:
    """Print the rows as a table and write them, with how they came about, as JSON."""
    print_table(rows, columns)
    report = {
        "benchmark": benchmark,
        "model": {name: card[name] for name in ("name", "version", "sha256", "runner")},
        "machine": machine(),
        "code": code(),
        **how,
        "rows": list(rows),
    }
    path.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(f"written to {path}")


def print_table(rows: Sequence[dict[str, Any]], columns: Sequence[str] | None = None) -> None:
    """All columns, unless some are named."""
    widths = {name: max(len(name), *(len(_cell(row[name])) for row in rows)) for name in columns or rows[0]}
    print("  ".join(name.rjust(width) for name, width in widths.items()))
    for row in rows:
        print("  ".join(_cell(row[name]).rjust(width) for name, width in widths.items()))


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
