"""Big images: legal uploads of a few kilobytes cost neither the memory nor the time of those that others send."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from model_core.package import Preprocessing
from service.images import Decoder
from tests.service.bodies import encode

SIDE = 4096

PEAK = f"""
import asyncio, pathlib, re, sys
from model_core.package import Preprocessing
from service.images import Decoder

def peak():
    return 1024 * int(re.search(r"VmHWM:\\s+(\\d+)", pathlib.Path("/proc/self/status").read_text())[1])

async def main():
    preprocessing = Preprocessing(resize_to_cover=(32, 32), mean=(0, 0, 0), std=(1, 1, 1))
    decoder = Decoder(preprocessing, (3, 32, 32), max_pixels={SIDE**2}, threads=2, max_waiting=8)
    data, before = pathlib.Path(sys.argv[1]).read_bytes(), peak()
    await asyncio.gather(*(decoder.decode(data) for _ in range(4)))
    decoder.close()
    print((peak() - before) / {SIDE**2})

asyncio.run(main())
"""
"""Prints the bytes of memory a pixel that four big images at the same time take."""


def decoder_for(max_pixels: int) -> Decoder:
    preprocessing = Preprocessing(resize_to_cover=(32, 32), mean=(0, 0, 0), std=(1, 1, 1))
    return Decoder(preprocessing, (3, 32, 32), max_pixels=max_pixels, threads=1, max_waiting=16)


@pytest.fixture
def decoder() -> Iterator[Decoder]:
    decoder = decoder_for(SIDE**2)
    yield decoder
    decoder.close()


@pytest.mark.parametrize(
    ("mode", "kind", "bytes_a_pixel"), [("P", "PNG", 1), ("RGBA", "PNG", 4), ("I;16", "PNG", 2), ("RGBA", "WEBP", 16)]
)
def test_big_images_at_the_same_time_take_the_memory_of_one(
    mode: str, kind: str, bytes_a_pixel: int, tmp_path: Path
) -> None:
    """That of the decoded image, but for a strip of it: no copy of the whole is made on the way to the input."""
    path = tmp_path / "image"
    image = Image.fromarray(np.zeros((SIDE, SIDE), np.uint16)) if mode == "I;16" else Image.new(mode, (SIDE, SIDE))
    image.save(path, kind, **({"transparency": 0} if mode == "P" else {}))
    measured = subprocess.run([sys.executable, "-c", PEAK, path], capture_output=True, text=True, check=True).stdout
    assert float(measured) < bytes_a_pixel + 3


def test_more_pixels_are_read_than_pillow_takes_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", Image.MAX_IMAGE_PIXELS)  # put back afterwards
    data = encode(Image.new("L", (14_000, 13_000), 255), "JPEG")
    decoder = decoder_for(400_000_000)
    np.testing.assert_allclose(decoder.read(data), 1, atol=0.01)
    decoder.close()


@pytest.mark.anyio
async def test_a_small_image_does_not_wait_behind_big_ones(decoder: Decoder) -> None:
    big, small = encode(Image.new("RGB", (3000, 3000))), encode(Image.new("RGB", (400, 400)))
    finished: list[bytes] = []

    async def decode(data: bytes) -> None:
        await decoder.decode(data)
        finished.append(data)

    await asyncio.gather(*(decode(data) for data in (big, big, big, small)))
    assert finished[-1] == big
