"""Processors: how many of the machine's this process may keep busy."""

from __future__ import annotations

import os
from math import ceil
from pathlib import Path

__all__ = ["processors"]

CGROUP = Path("/sys/fs/cgroup")


def processors(cgroup: Path = CGROUP) -> int:
    """Those that the system schedules it on, but no more than its container's quota is worth (docker run --cpus, a
    limit of Kubernetes): with more threads it would be stopped for most of every period. At least 1.

    Where the system does not tell (macOS), all of the machine's.
    """
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _quota(cgroup)
    return count if quota is None else max(1, min(count, ceil(quota)))


def _quota(cgroup: Path) -> float | None:
    """Processors' worth of time per second (cgroup v2, then v1); None if there is no limit."""
    try:
        quota, period = (cgroup / "cpu.max").read_text().split()
    except (OSError, ValueError):
        try:
            quota, period = ((cgroup / "cpu" / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        except OSError:
            return None
    try:
        limited = int(quota) > 0 and int(period) > 0  # v1 says -1, v2 "max"
    except ValueError:
        return None
    return int(quota) / int(period) if limited else None
