"""What the runs of a study measured: one record per run, gathered over seeds into a line of a table or figure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import NamedTuple

from training.errors import RunError
from training.evaluation import Evaluation, SizeFigures
from training.losses import prefix_sizes
from training.run import EVALUATION_FILE, check_network
from training.studies.plan import PlannedRun, decisive

__all__ = ["Line", "Record", "Spread", "load_record"]

NAMES = {"hne": "HNE", "hne_small": "HNEsmall", "hne_tiny": "HNEtiny", "hne_transformer": "Transformer"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """A run and its evaluation; its weights are needed only by runs that start from it, or that it teaches."""

    run: PlannedRun
    evaluation: Evaluation


class Spread(NamedTuple):
    """Mean over seeds, and the standard deviation of one seed; None where there is one seed only."""

    mean: float
    deviation: float | None

    @classmethod
    def of(cls, values: Sequence[float]) -> Spread:
        """Of at least one value."""
        return cls(mean(values), stdev(values) if len(values) > 1 else None)


def load_record(run: PlannedRun, folder: Path) -> Record | None:
    """The record of a finished run in the folder of all runs; None where it is not finished or not evaluated.

    Raises:
        RunError: the record is damaged, or is another run's, or of a network that has changed since.
    """
    path = folder / run.name / EVALUATION_FILE
    if not path.is_file():
        return None
    evaluation = Evaluation.load(path)
    if evaluation.epochs != run.config.epochs:
        return None
    planned = decisive(run.config)
    if strangers := [k for k, v in evaluation.settings.items() if k in planned and planned[k] != v]:
        raise RunError(f"{path}: was measured with another {', '.join(strangers)}; move the folder away")
    if evaluation.spec is not None:
        check_network(evaluation.spec, run.config, where=path)
    return Record(run=run, evaluation=evaluation)


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """One way of training one architecture, over seeds: a row of a table, a curve of a figure."""

    architecture: str
    label: str
    planned: tuple[PlannedRun, ...]
    records: tuple[Record, ...]

    @property
    def network(self) -> str:
        """The architecture as the paper calls it."""
        return NAMES.get(self.architecture, self.architecture)

    @property
    def sizes(self) -> tuple[int, ...]:
        """The powers of two among the ensemble sizes, and the full ensemble."""
        return prefix_sizes(len(self.records[0].evaluation.sizes))

    def mflops(self, size: int) -> float:
        """Millions of multiply-adds of an ensemble size, a property of the architecture."""
        return self.records[0].evaluation.sizes[size - 1].flops / 1e6

    def at(self, size: int, figure: Callable[[SizeFigures], float]) -> Spread:
        """A figure of an ensemble size over the seeds."""
        return Spread.of([figure(record.evaluation.sizes[size - 1]) for record in self.records])

    def accuracy(self, size: int) -> Spread:
        """Accuracy of an ensemble size in percent."""
        return self.at(size, lambda row: 100 * row.accuracy)

    @property
    def leaf_accuracies(self) -> list[float]:
        """Accuracy of each network alone in percent, mean over the seeds."""
        leaves = zip(*(record.evaluation.leaf_accuracies for record in self.records), strict=True)
        return [100 * mean(values) for values in leaves]

    @property
    def budgeted(self) -> list[tuple[float, float]]:
        """Mean millions of FLOPs and accuracy in percent at each confidence threshold, mean over the seeds; empty where
        a record is older than this figure."""
        if not all(record.evaluation.budgeted for record in self.records):
            return []
        curves = zip(*(record.evaluation.budgeted for record in self.records), strict=True)
        return [(mean(row.flops for row in rows) / 1e6, 100 * mean(row.accuracy for row in rows)) for rows in curves]

    @property
    def digests(self) -> str:
        """The records that this line shows, by the first digits of their settings' digests."""
        return " ".join(record.run.digest[:8] for record in self.records)
