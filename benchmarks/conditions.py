"""Conditions: the machine that a benchmark ran on, and the code that it measured."""

from __future__ import annotations

import hashlib
import platform
from importlib.metadata import distributions
from pathlib import Path
from typing import Any

import model_core
import service
from service.processors import processors

__all__ = ["code", "machine"]

LIBRARIES = {"fastapi", "msgspec", "numpy", "onnxruntime", "onnxruntime-gpu", "pillow", "pyzmq", "torch", "uvicorn"}
"""Those whose versions a report states."""


def code() -> str:
    """The digest of the service's own sources, by which records of one code are told from those of another."""
    digest = hashlib.sha256()
    for package in (model_core, service):
        root = Path(package.__path__[0])
        for path in sorted(root.rglob("*.py")):
            digest.update(f"{package.__name__}/{path.relative_to(root).as_posix()}\0".encode())
            digest.update(path.read_bytes() + b"\0")
    return digest.hexdigest()


def machine() -> dict[str, Any]:
    """What a benchmark ran on."""
    return {
        "platform": platform.platform(),
        "processor": _processor(),
        "cores": processors(),
        "python": platform.python_version(),
        "versions": {name: found.version for found in distributions() if (name := found.name) in LIBRARIES},
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.processor())
