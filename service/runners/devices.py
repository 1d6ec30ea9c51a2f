"""Devices: where ONNX Runtime computes, how, and whether it can.

Asked for a provider that it cannot use, ONNX Runtime goes on with the CPU and says nothing. So what was asked for is
compared with what each session got: CUDA either computes or is refused.
"""

from __future__ import annotations

import io
import logging
from contextlib import redirect_stdout
from enum import StrEnum
from pathlib import Path
from typing import Any

import onnxruntime as ort

from service.errors import RunnerError, SettingsError
from service.niceness import made_nice

__all__ = ["EXTRA", "Device", "first_line", "open_session", "prepare", "session_options"]

logger = logging.getLogger(__name__)

FATAL_ONLY = 4
CUDA_PROVIDER = "CUDAExecutionProvider"
EXTRA = "pip install 'hne-serve[gpu]'"


class Device(StrEnum):
    """What computes the steps."""

    CPU = "cpu"
    CUDA = "cuda"


def prepare(device: Device) -> None:
    """Load the libraries that a device needs, before the first session on it.

    Raises:
        SettingsError: this ONNX Runtime is built without it.
    """
    if device is Device.CPU:
        return
    if CUDA_PROVIDER not in ort.get_available_providers():
        raise SettingsError(
            f"runner onnx-cuda: ONNX Runtime {ort.__version__} is built without CUDA here; "
            f"{EXTRA} brings one with it, on Linux and Windows with x86_64"
        )
    ort.set_default_logger_severity(FATAL_ONLY)  # what is missing is raised below
    preload: Any = getattr(ort, "preload_dlls", None)  # finds what the CUDA and cuDNN wheels hold; from 1.21 on
    if preload is not None:
        with redirect_stdout(io.StringIO()) as said:
            preload()
        if said.getvalue():
            logger.info("loading CUDA's libraries: %s", said.getvalue().strip())


def session_options(threads: int) -> ort.SessionOptions:
    """How a session on the CPU computes: benchmarks give it to other servers too."""
    # Measured on two shared cores with the 16 steps of hne_small, milliseconds per image and full ensemble at batch
    # 8 and 32: pools that spin 83 and 45 (16 pools starve each other), one pool for all sessions 11.6 and 11.2 (that
    # one always spins), pools that sleep 2.7 and 2.5, a single thread 5.1 and 5.2. At batch 1 the two best are alike.
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # Only one session runs at a time: with one arena for all of them, 54 MB instead of 113 MB after a batch of 32.
    arena = ort.OrtMemoryInfo("Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT)
    ort.create_and_register_allocator(arena, None)
    options.add_session_config_entry("session.use_env_allocators", "1")
    options.log_severity_level = FATAL_ONLY  # every fault is raised as well
    return options


def open_session(
    file: Path, options: ort.SessionOptions, device: Device, *, graph: bytes | None = None
) -> ort.InferenceSession:
    """A session that computes a graph on a device that is prepared: the file's, or a `graph` that begins with it.

    Raises:
        RunnerError: the graph cannot be loaded.
        SettingsError: it would compute on the CPU instead.
    """
    providers = ["CPUExecutionProvider"] if device is Device.CPU else [CUDA_PROVIDER, "CPUExecutionProvider"]

    def opened() -> ort.InferenceSession:
        return ort.InferenceSession(graph or file, options, providers=providers, enable_fallback=0)

    try:
        session = made_nice(opened) if device is Device.CPU else opened()  # it starts its threads now
    except Exception as error:  # ONNX Runtime's exceptions have no base of their own
        raise RunnerError(file, f"cannot be loaded on {device}: {first_line(error)}") from error
    if device is Device.CUDA and CUDA_PROVIDER not in session.get_providers():
        raise SettingsError(
            "runner onnx-cuda: ONNX Runtime cannot use CUDA and would compute on the CPU. It needs an NVIDIA GPU with "
            f"its driver (does nvidia-smi list it?) and the CUDA and cuDNN libraries ({EXTRA} brings them)"
        )
    return session


def first_line(error: Exception) -> str:
    """What an error of ONNX Runtime says, without its details."""
    return str(error).strip().partition("\n")[0] or type(error).__name__
