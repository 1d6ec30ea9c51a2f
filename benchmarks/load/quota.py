"""Quota: processes that get a share of a core each, so that they and not the machine's cores are what lacks.

    with held_to(0.2, processes): ...       # a fifth of a core for each of them

More cores are not to be had by that, but one can see what more processes bring where there are more. It takes Linux's
control groups, version 1 or 2, and root.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

__all__ = ["held_to"]

CGROUP = Path("/sys/fs/cgroup")
PERIOD_US = 10_000
"""In which a process has its share: a tenth of what is usual, so that it is not stopped for long."""


@contextmanager
def held_to(share: float, processes: Sequence[int]) -> Iterator[None]:
    """Within the block each of the processes may take `share` of a core's time.

    Raises:
        SystemExit: this system has no such groups, or does not let us make them.
    """
    with ExitStack() as groups:
        try:
            for process in processes:
                groups.enter_context(_group_of_its_own(process, int(share * PERIOD_US)))
        except OSError as error:
            raise SystemExit(f"shares of a core want Linux's control groups, and root: {error}") from error
        yield


@contextmanager
def _group_of_its_own(process: int, quota: int) -> Iterator[None]:
    if (CGROUP / "cgroup.controllers").exists():
        root, controller = CGROUP, ""
        limits = {"cpu.max": f"{quota} {PERIOD_US}"}
        (root / "cgroup.subtree_control").write_text("+cpu")
    else:
        root, controller = CGROUP / "cpu", "cpu"
        limits = {"cpu.cfs_period_us": str(PERIOD_US), "cpu.cfs_quota_us": str(quota)}
    home = root / _path(process, controller).lstrip("/")
    group = root / f"hne-quota-{os.getpid()}-{process}"
    group.mkdir()
    try:
        for name, value in limits.items():
            (group / name).write_text(value)
        (group / "cgroup.procs").write_text(str(process))
        yield
    finally:
        with suppress(ProcessLookupError):
            (home / "cgroup.procs").write_text(str(process))
        group.rmdir()


def _path(process: int, controller: str) -> str:
    """Of a process in the hierarchy of a controller; "" for that of version 2."""
    for line in Path(f"/proc/{process}/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controller in controllers.split(","):
            return path
    raise FileNotFoundError(f"process {process} is in no control group")
