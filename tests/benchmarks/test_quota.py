"""A share of a core for single processes."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.load import quota
from benchmarks.load.quota import held_to

BUSY = """
import time
end = time.monotonic() + 1
while time.monotonic() < end: pass
print(time.process_time())
"""


def test_a_process_gets_its_share_and_no_more() -> None:
    with subprocess.Popen([sys.executable, "-c", BUSY], stdout=subprocess.PIPE, text=True) as process:
        try:
            with held_to(0.2, [process.pid]):
                busy = float(process.communicate()[0])
        except SystemExit as error:
            process.kill()
            pytest.skip(str(error))
    assert busy < 0.5, "of a second"


def test_afterwards_it_is_where_it_was() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as process:

        def group() -> str:
            return Path(f"/proc/{process.pid}/cgroup").read_text()

        try:
            before = group()
            with held_to(0.2, [process.pid]):
                assert group() != before
            assert group() == before
        except SystemExit as error:
            pytest.skip(str(error))
        finally:
            process.kill()


def test_where_it_cannot_be_one_line_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quota, "CGROUP", tmp_path / "absent")
    with pytest.raises(SystemExit, match="control groups, and root"), held_to(0.2, [os.getpid()]):
        pytest.fail("there are no groups")
