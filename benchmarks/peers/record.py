"""The record of a comparison, cell by cell, so that a run that is interrupted goes on where it was."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

__all__ = ["Cell", "Record"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One measurement."""

    server: str
    networks: int
    """Behind the server; for ours, the most that an answer may have."""
    deadline: str
    """As it was asked for; `none` for the overhead."""
    rho: float
    """0 for the overhead: one request at a time."""
    repeat: int = 0


class Record:
    """The JSON of a benchmark, written after every cell.

    Raises:
        SystemExit: the file holds a run of another kind, or is damaged.
    """

    def __init__(self, path: Path, how: dict[str, Any]) -> None:
        self._path = path
        how = json.loads(json.dumps(how))  # as it will be read again
        self._report: dict[str, Any] = {"benchmark": "peers", **how, "rows": []}
        if path.exists():
            try:
                found = json.loads(path.read_text(encoding="utf-8"))
                for row in found["rows"]:
                    _cell(row)
            except (ValueError, LookupError, TypeError) as error:
                raise SystemExit(f"{path} is damaged or of another version: name another --output") from error
            if other := sorted(key for key in how if found.get(key) != how[key]):
                raise SystemExit(
                    f"{path} holds a run with other {', '.join(other)}: remove it or name another --output"
                )
            self._report = found

    def __getitem__(self, key: str) -> Any:
        return self._report.get(key)

    def __setitem__(self, key: str, value: Any) -> None:
        self._report[key] = value
        self._write()

    def find(self, cell: Cell) -> dict[str, Any] | None:
        """What a cell gave, if it has been measured."""
        return next((row for row in self.rows if _cell(row) == cell), None)

    def add(self, cell: Cell, figures: dict[str, Any]) -> None:
        """Keep what a cell gave."""
        self.rows.append({name: getattr(cell, name) for name in Cell.__slots__} | figures)
        self._write()

    @property
    def rows(self) -> list[dict[str, Any]]:
        """All that was measured."""
        rows: list[dict[str, Any]] = self._report["rows"]
        return rows

    def _write(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self._path.with_suffix(".part")
        temporary.write_text(json.dumps(self._report, indent=1) + "\n", encoding="utf-8")
        os.replace(temporary, self._path)


def _cell(row: dict[str, Any]) -> Cell:
    return Cell(**{name: row[name] for name in Cell.__slots__})
