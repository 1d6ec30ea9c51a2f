"""Processes that wait for each other, or do not."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from training.lock import in_turn, locked

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="nothing is held there")

OTHER = """
import sys
from pathlib import Path
from training.errors import BusyError
from training.lock import in_turn, locked

folder = Path(sys.argv[2])
if sys.argv[1] == "turn":
    print("waits", flush=True)
    with in_turn(folder):
        print((folder / "said").read_text(), flush=True)
else:
    try:
        with locked(folder):
            print("free")
    except BusyError:
        print("busy")
"""


def other(what: str, folder: Path) -> subprocess.Popen[str]:
    """Another process that wants a folder."""
    return subprocess.Popen([sys.executable, "-c", OTHER, what, str(folder)], stdout=subprocess.PIPE, text=True)


def test_who_comes_second_waits_for_his_turn(tmp_path: Path) -> None:
    folder = tmp_path / "made"
    with in_turn(folder):
        waiting = other("turn", folder)
        assert waiting.stdout is not None
        assert waiting.stdout.readline() == "waits\n"
        (folder / "said").write_text("first")
    assert waiting.communicate(timeout=60)[0] == "first\n"


def test_a_turn_in_a_folder_that_is_held_leaves_it_held(tmp_path: Path) -> None:
    with locked(tmp_path):
        with in_turn(tmp_path):
            pass
        assert other("lock", tmp_path).communicate(timeout=60)[0] == "busy\n"
    assert other("lock", tmp_path).communicate(timeout=60)[0] == "free\n"
