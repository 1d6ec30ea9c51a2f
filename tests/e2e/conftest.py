"""Fixtures of the tests that talk to a running server."""

import signal
from collections.abc import Iterator

import numpy as np
import pytest
from PIL import Image


@pytest.fixture(scope="session", autouse=True)
def hangups_reach_servers() -> Iterator[None]:
    """Tests that `nohup` started ignore hangups, and so would a server. With a handler they go on, and what they start
    has the default again."""
    inherited = signal.getsignal(signal.SIGHUP)
    if inherited == signal.SIG_IGN:
        signal.signal(signal.SIGHUP, lambda *_: None)
    yield
    signal.signal(signal.SIGHUP, inherited)


@pytest.fixture(scope="module")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture(scope="session")
def photo(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("photo") / "photo.jpg"
    Image.fromarray(np.random.default_rng(3).integers(0, 256, (300, 400, 3), np.uint8)).save(path)
    return path.read_bytes()
