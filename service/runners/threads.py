"""Threads: the batch size from which on several CPU threads compute a step faster than one.

Below it the hand-over between threads, once for each of a step's many small operations, costs more than it saves, and
takes a core that HTTP could use. Where it lies depends on network and machine, so it is measured.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

import numpy as np
import onnxruntime as ort

from model_core.package import Package
from service.errors import RunnerError
from service.runners.base import Array
from service.runners.devices import Device, first_line, open_session, session_options

__all__ = ["first_batch_for", "worthwhile_from"]

BATCHES = (1, 2, 4, 8, 16, 32, 64)
REPEATS = 8
WORTHWHILE = 0.85
"""Several threads are to take less than this share of the time that one takes."""
LONG = 0.1
"""Seconds of a step with one thread after which larger batches need not be timed."""


def first_batch_for(threads: int, package: Package) -> int | None:
    """The smallest batch from which on so many threads are worthwhile for a package's steps; None if none is.

    Raises:
        RunnerError: the first step cannot be loaded or run.
    """
    if threads == 1:
        return None
    file = package.step(0)
    sessions = [open_session(file, session_options(count), Device.CPU) for count in (1, threads)]
    times: dict[int, tuple[float, float]] = {}
    for batch in BATCHES:
        images = np.zeros((batch, *package.manifest.spec.input_shape), np.float32)
        try:
            alone, together = _fastest(sessions, images)
        except Exception as error:  # ONNX Runtime's exceptions have no base of their own
            raise RunnerError(file, first_line(error)) from error
        times[batch] = alone, together
        if alone > LONG:
            break
    return worthwhile_from(times)


def worthwhile_from(times: Mapping[int, tuple[float, float]]) -> int | None:
    """The batch size from which on the second of two times is worth it at every larger one; None if there is none."""
    found: int | None = None
    for batch, (alone, together) in sorted(times.items(), reverse=True):
        if together >= WORTHWHILE * alone:
            break
        found = batch
    return found


def _fastest(sessions: Sequence[ort.InferenceSession], images: Array) -> list[float]:
    """Seconds of each one's fastest run, in turn, so that the machine's pace is the same for all."""
    seconds: list[list[float]] = [[] for _ in sessions]
    for _ in range(REPEATS):
        for session, taken in zip(sessions, seconds, strict=True):
            started = time.perf_counter()
            session.run(["logits"], {"x": images})
            taken.append(time.perf_counter() - started)
    return [min(taken) for taken in seconds]
