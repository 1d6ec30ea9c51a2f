"""What a person sees of a run: the progress bar, and `log.csv`, which pandas and spreadsheets open.

The log has a row every few steps and one at the end of each epoch, with the accuracies where they were evaluated. On
resuming, rows after the checkpoint are dropped, so a run that was killed leaves the same log as one that was not, but
for what it says of time.
"""

from __future__ import annotations

import csv
import os
import sys
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from types import TracebackType
from typing import NoReturn, Self

from tqdm import tqdm

__all__ = ["LOG_FILE", "LogRow", "Progress", "bar"]

LOG_FILE = "log.csv"


@dataclass(frozen=True, slots=True, kw_only=True)
class LogRow:
    """One row. `step` counts from the start of the run; loss is the mean since the previous row."""

    step: int
    epoch: float
    seconds: float
    lr: float
    images_per_second: float
    loss: float
    accuracy_1: float | None = None
    accuracy_full: float | None = None


def bar(label: str, *, total: int, initial: int = 0, keep: bool = True, unit: str = "img") -> tqdm[NoReturn]:
    """A progress bar that counts images, or other units. Where nobody watches, as in a file, it moves once a minute."""
    interval = 0.1 if sys.stderr.isatty() else 60
    return tqdm(desc=label, total=total, initial=initial, unit=unit, leave=keep, mininterval=interval)


class Progress:
    """Progress bar and log of one run; a context manager. `logged` is the step of the last row that was kept."""

    def __init__(self, folder: Path, *, images: int, done: int, step: int, leaves: int) -> None:
        self._path = folder / LOG_FILE
        kept = self._rows_until(step)
        self.logged = int(kept[-1]["step"]) if kept else 0
        self._path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self._path.with_name(f".{LOG_FILE}.part")
        with temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.DictWriter(file, [item.name for item in fields(LogRow)])
            writer.writeheader()
            writer.writerows(kept)
        os.replace(temporary, self._path)
        self._file = self._path.open("a", newline="", encoding="utf-8")
        self._writer = csv.DictWriter(self._file, [item.name for item in fields(LogRow)])
        self._bar = bar("training", total=images, initial=done)
        self._leaves = leaves
        self._accuracies: dict[str, str] = {}

    def advance(self, images: int) -> None:
        """Some more images have been trained on."""
        self._bar.update(images)

    def record(self, row: LogRow) -> None:
        """Append a row and show its figures."""
        self._writer.writerow({name: _short(value) for name, value in asdict(row).items()})
        self._file.flush()
        if row.accuracy_1 is not None and row.accuracy_full is not None:
            self._accuracies = {"N=1": f"{row.accuracy_1:.2%}", f"N={self._leaves}": f"{row.accuracy_full:.2%}"}
        self._bar.set_postfix({"epoch": f"{row.epoch:.1f}", "loss": f"{row.loss:.3f}", **self._accuracies})

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bar.close()
        self._file.close()

    def _rows_until(self, step: int) -> list[dict[str, str]]:
        if not step or not self._path.is_file():
            return []
        with self._path.open(newline="", encoding="utf-8") as file:
            whole = (line for line in file if line.endswith("\n"))  # a kill can leave a last row without its end
            return [row for row in csv.DictReader(whole) if int(row["step"]) <= step]


def _short(value: float | None) -> object:
    return f"{value:.6g}" if isinstance(value, float) else value
