"""Trains and evaluates the runs of a study that are missing, one after the other.

What is done is seen in the folder: a run's state and its evaluation, each replaced atomically. So the process may end
anywhere, and the next one goes on in the middle of the run that was under way; nothing is done twice but what came
after its last save. Several processes may work at one study: each run is trained by one of them.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from math import inf
from pathlib import Path
from typing import Any

from model_core.errors import ModelError, SpecError
from training.config import TrainConfig
from training.data import ImageDataset
from training.errors import BusyError, ConfigError, DivergedError, RunError, TrainingError
from training.lock import locked
from training.run import EVALUATION_FILE, advise, begin, check_network, device_of, evaluate_run, open_data, spec_of
from training.run_state import STATE_FILE, RunState, check_data
from training.studies.plan import PlannedRun, decisive
from training.studies.record import Record, load_record
from training.trainer import RunOptions, Trainer

__all__ = ["Conduct"]


@dataclass(slots=True, kw_only=True)
class Conduct:
    """Works through a list of runs."""

    folder: Path
    """Of all runs; each has its own below it."""
    command: str
    save_seconds: float = 300.0
    max_seconds: float | None = None
    stop_requested: Callable[[], bool] = lambda: False
    clock: Callable[[], float] = time.monotonic
    _datasets: dict[tuple[object, ...], ImageDataset] = field(default_factory=dict)

    def finish(self, runs: Sequence[PlannedRun]) -> TrainingError | ModelError | None:
        """Finish them in order, or until stopped; those that another process is training are left to it, and one that
        diverges, or that cannot be, does not keep the others.

        Returns:
            What the last such run ended with, where the others were gone through; else None.

        Raises:
            DataError, ConfigError: the dataset, or the device, cannot be used.
            RunError: a folder holds a run of other settings or data, or of a network that has changed since.
        """
        failed: TrainingError | ModelError | None = None
        end = inf if self.max_seconds is None else self.clock() + self.max_seconds
        missing = [run for run in runs if self._record(run) is None]
        for run in missing:  # data that cannot be used is told before hours of training
            self._data(run.config)
        trained = False
        for number, run in enumerate(missing, len(runs) - len(missing) + 1):
            if trained and (self.stop_requested() or self.clock() >= end):
                return None
            print(f"run {number} of {len(runs)}: {run.name}", file=sys.stderr, flush=True)
            if fault := self._lacks(run):
                print(f"hne-train: {fault}; going on with the next", file=sys.stderr)
                continue
            try:
                with locked(self.folder / run.name):
                    finished = self._finish(run, end)
            except BusyError as error:
                print(f"hne-train: {error}; going on with the next", file=sys.stderr)
                continue
            except (ConfigError, DivergedError, SpecError) as error:
                print(f"hne-train: {error}; going on with the next", file=sys.stderr)
                failed = error
                continue
            if not finished:
                return None
            trained = True
        return failed

    def _record(self, run: PlannedRun) -> Record | None:
        """The record of a finished run on this data; None where it is not finished."""
        record = load_record(run, self.folder)
        if record is not None and record.evaluation.data is not None:
            path = self.folder / run.name / EVALUATION_FILE
            check_data(self._data(run.config), record.evaluation.data, where=path)
        return record

    def _lacks(self, run: PlannedRun) -> str:
        """What keeps a run from being trained now; "" where nothing does."""
        for other in run.others.values():
            if self._record(other) is None:
                return f"it needs {other.name}, which is not finished"
            if not (self.folder / other.name / STATE_FILE).is_file():
                return f"it needs the weights of {other.name}, of which only the record is here"
        return ""

    def _finish(self, run: PlannedRun, end: float) -> bool:
        """Train a run to its end, by one step at least, and evaluate it; False where it was stopped before."""
        if self._record(run) is not None:  # another process has finished it meanwhile
            return True
        out = self.folder / run.name
        others: dict[str, Any] = {role: self.folder / other.name for role, other in run.others.items()}
        config = replace(run.config, **others)
        device = device_of(config)
        if (out / STATE_FILE).exists():
            state = RunState.load(out)
            if decisive(state.config) != decisive(config):
                raise RunError(f"{out}: holds a run of other settings; move it away, or choose another --out")
            check_network(state.model.spec, config, where=out)
            data = self._data(config)
            # Where and how is today's choice, what was decided is the run's.
            state = replace(state, config=replace(config, teacher_sha256=state.config.teacher_sha256))
        else:
            advise(config, device)
            data = self._data(config)
            state = begin(config, data)
        options = RunOptions(
            out=out,
            save_seconds=self.save_seconds,
            max_seconds=end - self.clock(),
            stop_requested=self.stop_requested,
            clock=self.clock,
        )
        if not Trainer(state, data, options, device).train():
            return False
        evaluate_run(out, RunState.load(out), device, data, command=self.command)
        return True

    def _data(self, config: TrainConfig) -> ImageDataset:
        """The dataset of a run; decoded once for all runs with the same images."""
        spec, device = spec_of(config), device_of(config)
        key = (config.dataset, config.data, config.held_out, config.train_images, spec.input_shape, device)
        if key not in self._datasets:
            self._datasets[key] = open_data(config, spec, device)
        return self._datasets[key]
