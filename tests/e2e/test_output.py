"""What `hne-serve` prints, nobody has to read: a disk that is full changes nothing."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.e2e.running import PATIENCE, Running, gone
from tests.e2e.servers import free_port, launched, until_it_says

pytestmark = [
    pytest.mark.anyio,
    pytest.mark.skipif(sys.platform != "linux", reason="wants /dev/full, and looks at the processes in /proc"),
]


@pytest.fixture
def full() -> Iterator[int]:
    """A file on a full disk."""
    file = os.open("/dev/full", os.O_WRONLY)
    yield file
    os.close(file)


@pytest.mark.parametrize("processes", ["0", "1"])
async def test_nobody_has_to_read_what_it_prints(tiny_package: Path, photo: bytes, processes: str, full: int) -> None:
    port = free_port()
    with launched(tiny_package, "--api-processes", processes, port=port, stdout=full, stderr=full) as process:
        await until_it_says(port, 200)
        await asyncio.sleep(1)  # a service of several processes prints when it looks after them, twice a second
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=PATIENCE) as client:
            assert (await client.post("/predict", files={"file": photo})).status_code == 200
        process.terminate()
        assert process.wait(PATIENCE) == 0


async def test_it_ends_without_the_engine_also_where_it_cannot_say_why(
    tiny_package: Path, tmp_path: Path, full: int
) -> None:
    port = free_port()
    with launched(tiny_package, "--api-processes", "1", port=port, stderr=full, TMPDIR=str(tmp_path)) as process:
        await until_it_says(port, 200)
        service = Running("", process, tmp_path)
        os.kill(service.engine, signal.SIGKILL)
        assert process.wait(PATIENCE) == 1
        await gone(service)
