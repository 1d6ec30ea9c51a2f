"""The journal: every finished cell of a long benchmark on disk at once, so that an interrupted run goes on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

__all__ = ["Journal"]


class Journal:
    """Lines of JSON: first what holds for all cells, then a line for each cell.

    A line that was cut off by a crash is measured again.

    Raises:
        SystemExit: the file's cells were measured under other settings, or it is damaged.
    """

    def __init__(self, path: Path, settings: dict[str, Any]) -> None:
        self.path = path
        self.cells: dict[str, dict[str, Any]] = {}
        self.facts: dict[str, Any] = {}
        """What was measured before the first cell; nothing in a new journal."""
        self._settings: dict[str, Any] = json.loads(json.dumps(settings))
        if path.exists():
            try:
                self._read()
            except (ValueError, LookupError, TypeError, AttributeError) as error:
                raise SystemExit(f"{path} is damaged or of another version; move it away to begin a new run") from error

    def begin(self, facts: dict[str, Any]) -> None:
        """Start a new journal."""
        self.facts = facts
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._replace(_line({"settings": self._settings, "facts": facts}))

    def add(self, key: str, cell: dict[str, Any]) -> None:
        """A cell is finished."""
        self.cells[key] = cell
        with self.path.open("a", encoding="utf-8") as file:
            file.write(_line({"key": key, "cell": cell}))

    def _read(self) -> None:
        text = self.path.read_text(encoding="utf-8")
        complete = text[: text.rfind("\n") + 1]
        if not complete:
            return
        head, *lines = map(json.loads, complete.splitlines())
        if head["settings"] != self._settings:
            changed = sorted(
                name
                for name in head["settings"].keys() | self._settings.keys()
                if head["settings"].get(name) != self._settings.get(name)
            )
            raise SystemExit(
                f"{self.path} was begun with another {', '.join(changed)}; move it away to begin a new run"
            )
        self.facts = head["facts"]
        self.cells = {line["key"]: line["cell"] for line in lines}
        if complete != text:
            self._replace(complete)

    def _replace(self, text: str) -> None:
        """All of it at once, so that nothing is lost if this is interrupted."""
        beside = self.path.with_name(f"{self.path.name}.new")
        beside.write_text(text, encoding="utf-8")
        beside.replace(self.path)


def _line(entry: dict[str, Any]) -> str:
    return json.dumps(entry, allow_nan=False) + "\n"
