"""One process at a time: an advisory lock on a file in a folder, which ends with its process."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from training.errors import BusyError, RunError

if sys.platform != "win32":
    import fcntl

__all__ = ["in_turn", "locked"]

LOCK_FILE, TURN_FILE = ".lock", ".turn"


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a run for training; its folder is made where there is none. On Windows nothing is held.

    Raises:
        BusyError: another process trains the run.
        RunError: nothing can be written into the folder.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / LOCK_FILE).open("a")
    except OSError as error:
        raise RunError(f"{folder}: cannot hold a run ({error.strerror}); choose another folder") from error
    with file:
        if sys.platform != "win32":
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # not flock, which workers inherit
            except (BlockingIOError, PermissionError) as error:
                raise BusyError(f"{folder}: is being trained by another process") from error
        yield


@contextmanager
def in_turn(folder: Path) -> Iterator[None]:
    """Wait until no other process is in such a block of a folder, which is made where there is none and may be held.

    Raises:
        OSError: nothing can be written into the folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / TURN_FILE).open("a") as file:
        if sys.platform != "win32":
            fcntl.lockf(file, fcntl.LOCK_EX)
        yield
