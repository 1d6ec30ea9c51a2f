"""Which runner serves a package: the one that was named, or the fastest that works here."""

from __future__ import annotations

import ctypes
import logging

from model_core.package import Package
from service.errors import RunnerError, ServiceError, SettingsError
from service.runners.base import Runner
from service.runners.devices import EXTRA, Device
from service.runners.names import Precision, RunnerName
from service.runners.onnx import OnnxRunner
from service.runners.threads import first_batch_for

__all__ = ["choose_runner"]

logger = logging.getLogger(__name__)


def choose_runner(
    package: Package, name: RunnerName, *, threads: int, precision: Precision = "float32", max_batch: int = 128
) -> Runner:
    """A runner for a package. `threads` computing threads at most count on the CPU; `precision` and `max_batch` on a
    GPU with PyTorch.

    Raises:
        RunnerError: what it computes from cannot be loaded.
        SettingsError: the device that was named cannot be used, or not in this precision; says what is missing.
    """
    if precision != "float32" and name in ("cpu", "onnx-cuda"):
        raise SettingsError(f"precision {precision}: runner {name} computes in float32; runner cuda would do")
    match name:
        case "cpu":
            return _onnx_cpu(package, threads)
        case "onnx-cuda":
            return OnnxRunner(package, threads=threads, wide=True, device=Device.CUDA)
        case "cuda":
            return _pytorch(package, precision, max_batch)
    refusal: ServiceError | None = None
    if _has_driver():
        for candidate in ("cuda", "onnx-cuda"):
            try:
                return choose_runner(package, candidate, threads=threads, precision=precision, max_batch=max_batch)
            except (RunnerError, SettingsError) as error:
                logger.warning("not serving with %s: %s", candidate, error)
                refusal = refusal or error
    if refusal is not None and precision != "float32":
        raise refusal
    return choose_runner(package, "cpu", threads=threads, precision=precision)


def _onnx_cpu(package: Package, threads: int) -> Runner:
    threads_from = first_batch_for(threads, package)
    if threads_from is None:
        logger.info("one thread computes faster than %d here", threads)
        return OnnxRunner(package, wide=True)
    logger.info("%d threads compute batches of %d and more, one the smaller", threads, threads_from)
    return OnnxRunner(package, threads=threads, threads_from=threads_from, wide=True)


def _pytorch(package: Package, precision: Precision, max_batch: int) -> Runner:
    try:
        # Here, because it is large and serving on a CPU needs none of it.
        from service.runners.pytorch import PyTorchRunner
    except ImportError as error:
        raise SettingsError(f"runner cuda: needs PyTorch and safetensors ({error}); {EXTRA} brings them") from error
    return PyTorchRunner(package, precision=precision, max_batch=max_batch)


def _has_driver() -> bool:
    """Whether NVIDIA's driver is installed; importing PyTorch only to learn that it is not would take seconds."""
    for library in ("libcuda.so.1", "nvcuda.dll"):
        try:
            ctypes.CDLL(library)
        except OSError:
            continue
        return True
    return False
