"""Timings: what a profile starts from, measured through the runner or read back from the last time.

They are kept beside the package (`NAME.profiles/`), one file for each machine, runner and package: whatever decides how
long a segment takes is in the file's name. A file that cannot be read, or written, is no fault: it is measured instead.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import platform
from collections import defaultdict
from collections.abc import Callable, Set
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import BaseModel, Field, PositiveInt, TypeAdapter

from model_core.package import Package
from model_core.tree import Segment
from service.profile import Shape, Timings, shape_of
from service.runners.base import Runner
from service.scheduler import batch_sizes

__all__ = ["measure", "timings_of"]

logger = logging.getLogger(__name__)

VERSION = 1
REPEATS = 5


_Seconds = Annotated[float, Field(gt=0, lt=3600)]


class _Curve(BaseModel):
    """One shape's timings in a file."""

    entry_block: int
    width: int
    seconds: Annotated[dict[PositiveInt, Annotated[list[_Seconds], Field(min_length=1)]], Field(min_length=1)]


_FORM = TypeAdapter(list[_Curve])


def timings_of(
    package: Package, runner: Runner, *, max_batch: int, clock: Callable[[], float], seconds: float, keep: bool
) -> Timings:
    """The timings of a package's segments; with `keep`, those of the last time if nothing has changed since.

    Raises:
        RunnerError: a segment fails.
    """
    file = _file(package, runner, max_batch, seconds)
    for until in package.manifest.spec.tree.nested_sizes():  # the first run loads what it needs
        _run(package, runner, Segment(0), 1, until=until)
    shapes = {shape_of(package.manifest.spec.tree, segment) for segment in runner.segments}
    if keep and (kept := _read(file, shapes, max_batch)) is not None:
        logger.info("profile: as measured before, from %s", file)
        for segment in runner.segments:  # the first run of each loads what it needs
            _run(package, runner, segment, 1)
        return kept
    timings = measure(package, runner, max_batch=max_batch, clock=clock, seconds=seconds)
    if keep:
        _write(file, timings)
    return timings


def measure(package: Package, runner: Runner, *, max_batch: int, clock: Callable[[], float], seconds: float) -> Timings:
    """Time every segment of a runner at batch sizes 1, 2, 4, ..., max_batch, in slots that are reserved and free.

    Larger batches are left out, and repeats cut short, once about `seconds` have passed; batch 1 is always measured.

    Raises:
        RunnerError: a segment fails.
    """
    tree, started = package.manifest.spec.tree, clock()
    timings: dict[Shape, dict[int, list[float]]] = defaultdict(lambda: defaultdict(list))

    def time_all(batch: int) -> float:
        began = clock()
        for segment in runner.segments:
            before = clock()
            _run(package, runner, segment, batch)
            timings[shape_of(tree, segment)][batch].append(clock() - before)
        return clock() - began

    measured: list[int] = []
    for batch in batch_sizes(max_batch):
        time_all(batch)  # the first run of a size allocates
        for shape in timings.values():
            shape[batch].clear()
        last = time_all(batch)
        measured.append(batch)
        logger.info("profile: all %d segments at batch %d take %.1f ms", len(runner.segments), batch, 1e3 * last)
        if clock() - started + 4 * last > seconds:
            break
    for _ in range(REPEATS - 1):
        for batch in measured:
            if clock() - started < seconds:
                time_all(batch)
    return timings


def _run(package: Package, runner: Runner, segment: Segment, batch: int, *, until: int | None = None) -> None:
    shape = (batch, *package.manifest.spec.input_shape)
    runner.run(segment, slice(0, batch), None if segment.start else np.zeros(shape, np.float32), until=until)


def _file(package: Package, runner: Runner, max_batch: int, seconds: float) -> Path:
    what = [VERSION, _processor(), os.cpu_count(), runner.configuration, package.sha256, max_batch, seconds]
    digest = hashlib.sha256(json.dumps(what).encode()).hexdigest()
    root = package.root.resolve()  # which may be "."
    return root.with_name(f"{root.name}.profiles") / f"{digest[:16]}.json"


def _processor() -> str:
    """The machine's kind: its processor's model where the system tells, its name."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    models = {line.partition(":")[2].strip() for line in lines if line.startswith("model name")}
    return ", ".join([platform.node(), platform.machine(), *(sorted(models) or [platform.processor()])])


def _read(file: Path, shapes: Set[Shape], max_batch: int) -> Timings | None:
    """What a file has of these shapes; None if it lacks one, or one at batch 1, or has batches that cannot be."""
    try:
        curves = _FORM.validate_json(file.read_bytes())
        found = {Shape(curve.entry_block, curve.width): curve.seconds for curve in curves}
        if missing := [shape for shape in shapes if 1 not in found.get(shape, {})]:
            raise ValueError(f"it lacks {missing}")
        if (largest := max(batch for curve in curves for batch in curve.seconds)) > max_batch:
            raise ValueError(f"it has batches of {largest}")
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        logger.warning("profile: %s is not readable and is measured again: %s", file, error)
        return None
    return found


def _write(file: Path, timings: Timings) -> None:
    curves = [
        _Curve(
            entry_block=shape.entry_block,
            width=shape.width,
            seconds={batch: list(values) for batch, values in measured.items()},
        )
        for shape, measured in timings.items()
    ]
    part = file.with_suffix(f".{os.getpid()}.part")
    try:
        file.parent.mkdir(exist_ok=True)
        part.write_bytes(_FORM.dump_json(curves))
        part.replace(file)
    except OSError as error:
        logger.info("profile: not kept for the next start: %s", error)
