"""Freed memory is kept, so that the next large tensor costs no page faults."""

from __future__ import annotations

import platform
import subprocess
import sys

import pytest

# In a process of its own: the setting cannot be taken back.
FAULTS_OF_A_REPEATED_ALLOCATION = """
import resource, sys
if sys.argv[1] == "keep":
    from training.memory import keep_freed_memory
    assert keep_freed_memory()
bytearray(1 << 26)
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
bytearray(b"x") * (1 << 26)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def faults(mode: str) -> int:
    command = [sys.executable, "-c", FAULTS_OF_A_REPEATED_ALLOCATION, mode]
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the setting is glibc's")
def test_a_large_block_is_reused_without_page_faults() -> None:
    assert faults("default") > 1000
    assert faults("keep") < 100
