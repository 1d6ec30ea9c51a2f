"""Decoding: what the network gets is what it got in evaluation, and no upload can do harm."""

from __future__ import annotations

import io
import struct
import threading
import zlib
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import numpy as np
import pytest
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from model_core.package import Preprocessing
from service.errors import FormatError, InvalidError, QueueFullError, TooLargeError
from service.images import Decoder
from tests.service.bodies import encode

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.247, 0.2435, 0.2616)


def decoder_for(side: int, *, resize: int | None = None, max_pixels: int = 2_000_000, max_waiting: int = 8) -> Decoder:
    preprocessing = Preprocessing(resize_to_cover=(resize or side,) * 2, mean=MEAN, std=STD)
    return Decoder(preprocessing, (3, side, side), max_pixels=max_pixels, threads=1, max_waiting=max_waiting)


@pytest.fixture
def decoder() -> Iterator[Decoder]:
    decoder = decoder_for(32)
    yield decoder
    decoder.close()


def noise(width: int = 32, height: int = 32, channels: int = 3) -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 256, (height, width, channels), np.uint8))


def smooth(width: int, height: int) -> Image.Image:
    """A photo-like image: no detail that resampling would lose."""
    x, y = np.meshgrid(np.linspace(0, 3, width), np.linspace(0, 3, height))
    waves = np.stack([np.sin(x + y), np.cos(2 * x), np.sin(3 * y)], axis=-1)
    return Image.fromarray((127.5 + 127 * waves).astype(np.uint8))


def test_a_jpeg_that_fits_equals_to_tensor_and_normalize(decoder: Decoder) -> None:
    transforms = pytest.importorskip("torchvision.transforms")
    data = encode(noise(), "JPEG")
    expected = transforms.Normalize(MEAN, STD)(transforms.ToTensor()(Image.open(io.BytesIO(data)))).numpy()
    result = decoder.read(data)
    assert result.dtype == np.float32
    assert result.shape == (3, 32, 32)
    assert result.flags.c_contiguous
    np.testing.assert_allclose(result, expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize("size", [(48, 31), (31, 48), (100, 64), (33, 33), (20, 90)])
def test_other_sizes_equal_resize_and_centre_crop(size: tuple[int, int]) -> None:
    transforms = pytest.importorskip("torchvision.transforms")
    decoder = decoder_for(28, resize=32)
    data = encode(noise(*size))
    steps = [transforms.Resize(32), transforms.CenterCrop(28), transforms.ToTensor(), transforms.Normalize(MEAN, STD)]
    expected = transforms.Compose(steps)(Image.open(io.BytesIO(data))).numpy()
    np.testing.assert_allclose(decoder.read(data), expected, rtol=0, atol=1e-6)
    decoder.close()


def test_a_big_jpeg_is_decoded_at_a_smaller_scale_with_nearly_the_same_result(decoder: Decoder) -> None:
    data = encode(smooth(1600, 1200), "JPEG", quality=95)
    whole, drafted = decoder.read(encode(Image.open(io.BytesIO(data)))), decoder.read(data)
    assert 0 < np.abs(whole - drafted).mean() < 0.05


def test_exif_orientation_is_honoured(decoder: Decoder) -> None:
    image = smooth(40, 32)
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned by 90 degrees
    turned = decoder.read(encode(image, exif=exif))
    np.testing.assert_array_equal(turned, decoder.read(encode(image.transpose(Image.Transpose.ROTATE_270))))


def test_a_turned_jpeg_of_the_inputs_own_size_is_turned_too(decoder: Decoder) -> None:
    image = smooth(32, 32)
    exif = Image.Exif()
    exif[0x0112] = 3  # shown upside down
    upright, turned = decoder.read(encode(image, "JPEG")), decoder.read(encode(image, "JPEG", exif=exif))
    np.testing.assert_array_equal(turned, upright[:, ::-1, ::-1])


@pytest.mark.parametrize(
    ("mode", "options"),
    [
        ("RGB", {"subsampling": 0}),
        ("RGB", {"subsampling": 1, "progressive": True}),
        ("RGB", {"keep_rgb": True}),
        ("L", {}),
        ("CMYK", {}),
    ],
)
def test_every_kind_of_jpeg_is_what_pillow_makes_of_it(decoder: Decoder, mode: str, options: dict[str, Any]) -> None:
    data = encode(smooth(32, 32).convert(mode), "JPEG", **options)
    as_pillow = encode(Image.open(io.BytesIO(data)).convert("RGB"))
    np.testing.assert_array_equal(decoder.read(data), decoder.read(as_pillow))


def test_a_jpeg_of_the_cut_outs_size_is_resized_first() -> None:
    decoder = decoder_for(28, resize=32)
    image = smooth(28, 28)
    same = Image.open(io.BytesIO(encode(image, "JPEG", quality=95)))
    np.testing.assert_array_equal(decoder.read(encode(image, "JPEG", quality=95)), decoder.read(encode(same)))
    decoder.close()


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "GIF", "BMP"])
def test_every_format_is_read(decoder: Decoder, kind: str) -> None:
    grey = Image.new("RGB", (32, 32), (128, 128, 128))
    np.testing.assert_allclose(decoder.read(encode(grey, kind)), decoder.read(encode(grey)), atol=0.03)


def test_modes_become_rgb(decoder: Decoder) -> None:
    def first_pixel(image: Image.Image, kind: str = "PNG", **options: object) -> tuple[int, ...]:
        normalised = decoder.read(encode(image, kind, **options))[:, 0, 0]
        return tuple(np.rint((normalised * np.array(STD) + np.array(MEAN)) * 255).astype(int).tolist())

    size = (32, 32)
    assert first_pixel(Image.new("L", size, 77)) == (77, 77, 77)
    assert first_pixel(Image.fromarray(np.full(size, 0x4D12, np.uint16))) == (0x4D,) * 3
    assert first_pixel(Image.new("RGBA", size, (255, 0, 0, 0))) == (255, 255, 255)
    assert first_pixel(Image.new("RGBA", size, (255, 0, 0, 255))) == (255, 0, 0)
    assert first_pixel(Image.new("LA", size, (10, 255))) == (10, 10, 10)
    assert first_pixel(Image.new("1", size, 1)) == (255, 255, 255)
    palette = Image.new("RGB", size, (10, 20, 30)).quantize(4)
    assert first_pixel(palette) == (10, 20, 30)
    assert first_pixel(palette, transparency=palette.getpixel((0, 0))) == (255, 255, 255)
    cmyk = first_pixel(Image.new("CMYK", size, (0, 255, 255, 0)), "JPEG", quality=100)
    assert cmyk[0] > 240
    assert max(cmyk[1:]) < 30


def test_a_huge_head_is_refused_before_anything_is_decoded(decoder: Decoder) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    for side in (2_000, 12_000, 30_000):  # above our limit; above Pillow's warning; above Pillow's error
        head = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
        with pytest.raises(TooLargeError, match="pixels"):
            decoder.read(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", b"") + chunk(b"IEND", b""))


def test_as_many_pixels_as_are_allowed_are_read() -> None:
    with closing(decoder_for(32, max_pixels=40 * 50)) as decoder:
        assert decoder.read(encode(noise(50, 40))).shape == (3, 32, 32)
        with pytest.raises(TooLargeError, match="51 x 40 pixels; at most 2000"):
            decoder.read(encode(noise(51, 40)))


def test_a_strip_that_resizing_would_blow_up_is_refused(decoder: Decoder) -> None:
    with pytest.raises(TooLargeError, match="a thin strip, resized to cover the input: 32000000 x 32 pixels"):
        decoder.read(encode(Image.new("RGB", (1_000_000, 1))))


@pytest.mark.parametrize("side", [32, 64])
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_a_truncated_image_is_invalid(decoder: Decoder, kind: str, side: int) -> None:
    data = encode(noise(side, side), kind)
    with pytest.raises(InvalidError, match=r"body\.image: cannot be decoded"):
        decoder.read(data[: len(data) // 2], "body.image")


@pytest.mark.parametrize("data", [b"", b"garbage", b"<svg/>", encode(noise(), "TIFF"), encode(noise(), "PPM")])
def test_what_is_no_image_we_read_is_a_format_error(decoder: Decoder, data: bytes) -> None:
    with pytest.raises(FormatError, match="JPEG, PNG"):
        decoder.read(data)


@pytest.mark.anyio
async def test_the_pool_and_the_line_before_it_are_bounded() -> None:
    decoder = decoder_for(32, max_waiting=2)
    data = encode(Image.new("RGB", (1400, 1400)))
    import asyncio

    tasks = [asyncio.create_task(decoder.decode(data)) for _ in range(50)]
    results = await asyncio.gather(*tasks, return_exceptions=True)
    assert sum(isinstance(result, QueueFullError) for result in results) == 50 - 3
    assert decoder.waiting == 0
    assert sum(thread.name.startswith("decode") for thread in threading.enumerate()) <= 1
    assert (await decoder.decode(data)).shape == (3, 32, 32)
    decoder.close()


@pytest.mark.anyio
async def test_a_small_image_needs_no_thread(decoder: Decoder, monkeypatch: pytest.MonkeyPatch) -> None:
    """A thumbnail of a few kilobytes is not small: what counts is what it is decoded to, and then resized to."""
    threads: list[str] = []
    monkeypatch.setattr(Decoder, "_normalise", _noting(Decoder._normalise, threads))
    big, thin = Image.new("RGB", (400, 400)), Image.new("RGB", (1, 400))
    for image in (encode(smooth(32, 32), "JPEG"), encode(smooth(40, 32)), encode(big), encode(thin)):
        await decoder.decode(image)
    await decoder.decode(encode(smooth(32, 32), "JPEG"), at_once=False)
    assert [thread.startswith("decode") for thread in threads] == [False, False, True, True, True]


def with_text(kind: str) -> bytes:
    """A PNG with a compressed text of a megabyte, or with many short ones."""
    text = PngInfo()
    if kind == "zTXt":
        text.add_text("key", "a" * 10**6, zip=True)
    elif kind == "iTXt":
        text.add_itxt("key", "a" * 10**6, zip=True)
    else:
        for number in range(1000):
            text.add_text(str(number), "")
    return encode(smooth(32, 32), pnginfo=text)


def with_markers(marker: bytes) -> bytes:
    """A JPEG whose head has as many of them as fit into sixteen kilobytes."""
    data = encode(smooth(40, 32), "JPEG")
    return data[:2] + marker * ((16_000 - len(data)) // len(marker)) + data[2:]


def with_scans(side: int) -> bytes:
    """A JPEG that refines its pixels for as many times as fit into sixteen kilobytes."""
    data = encode(Image.new("RGB", (side, side)), "JPEG", progressive=True)
    last = data[data.rindex(b"\xff\xda") : -2]
    return data[:-2] + last * ((16_000 - len(data)) // len(last)) + data[-2:]


def with_exif(kind: str) -> bytes:
    exif = Image.Exif()
    exif[0x0131] = "camera"
    return encode(smooth(40, 32), kind, exif=exif)


@pytest.mark.anyio
@pytest.mark.parametrize(
    "data",
    [
        pytest.param(with_text("zTXt"), id="zTXt"),
        pytest.param(with_text("iTXt"), id="iTXt"),
        pytest.param(with_text("tEXt"), id="1000 tEXt"),
        pytest.param(encode(smooth(32, 32), icc_profile=bytes(10**6)), id="iCCP"),
        pytest.param(with_exif("PNG"), id="eXIf"),
        pytest.param(with_exif("JPEG"), id="EXIF"),
        pytest.param(with_markers(b"\xff\xfe\0\2"), id="comments"),
        pytest.param(with_markers(b"\xff"), id="filling"),
        pytest.param(encode(smooth(40, 32), "MPO", save_all=True, append_images=[smooth(40, 32)]), id="MPF"),
        pytest.param(with_scans(32), id="scans"),
        pytest.param(with_scans(128), id="scans of more pixels"),
        *(pytest.param(encode(smooth(32, 32), kind), id=kind) for kind in ("WEBP", "GIF", "BMP")),
    ],
)
async def test_a_small_file_that_can_be_slow_to_read_does_not_hold_up_the_event_loop(
    decoder: Decoder, monkeypatch: pytest.MonkeyPatch, data: bytes
) -> None:
    threads: list[str] = []
    monkeypatch.setattr(Decoder, "_normalise", _noting(Decoder._normalise, threads))
    assert len(data) <= 16_384
    await decoder.decode(data)
    assert [thread.startswith("decode") for thread in threads] == [True]


def _noting(method: Callable[..., Any], threads: list[str]) -> Callable[..., Any]:
    """The method, noting the name of the thread that it runs on."""

    def noted(*arguments: Any) -> Any:
        threads.append(threading.current_thread().name)
        return method(*arguments)

    return noted
