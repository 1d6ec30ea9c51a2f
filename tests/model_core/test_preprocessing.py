"""Resizing and cropping equal torchvision's, which is what published figures are measured with; training and serving
see the same pixels of any kind of image."""

import io
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps
from torchvision.transforms import CenterCrop, Compose, Resize

from model_core.package import Preprocessing
from model_core.preprocessing import fit, resized, upright, upright_rgb
from service.images import Decoder
from training.images import open_image


def picture(width: int, height: int) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(pixels)


@pytest.mark.parametrize("size", [(32, 32), (33, 32), (31, 32), (100, 57), (57, 101), (500, 375), (20, 300)])
@pytest.mark.parametrize("target", [(32, 32), (28, 28), (27, 32), (24, 31)])
def test_it_equals_resize_and_centre_crop(size: tuple[int, int], target: tuple[int, int]) -> None:
    height, width = target
    expected = Compose([Resize(32), CenterCrop(target)])(picture(*size))
    ours = fit(picture(*size), cover=(32, 32), height=height, width=width)
    assert ours.size == (width, height)
    np.testing.assert_array_equal(np.asarray(ours), np.asarray(expected))


@pytest.mark.parametrize("size", [(64, 32), (32, 32), (130, 60), (57, 101), (500, 375), (20, 300), (300, 20)])
@pytest.mark.parametrize("target", [(32, 64), (64, 32), (24, 31)])
@pytest.mark.parametrize("margin", [1, 256 / 224])
def test_as_much_of_an_image_is_seen_as_the_input_has_room_for(
    size: tuple[int, int], target: tuple[int, int], margin: float
) -> None:
    """torchvision's Resize takes a square's side; of other shapes each side is given, the least that covers them."""
    (width, height), cover = size, (round(target[0] * margin), round(target[1] * margin))
    scale = max(cover[0] / height, cover[1] / width)
    covering = [max(least, int(scale * side + 1e-9)) for side, least in zip((height, width), cover, strict=True)]
    expected = Compose([Resize(covering), CenterCrop(target)])(picture(*size))
    ours = fit(picture(*size), cover=cover, height=target[0], width=target[1])
    np.testing.assert_array_equal(np.asarray(ours), np.asarray(expected))


@pytest.mark.parametrize(("height", "width"), [(32, 32), (32, 64), (64, 32)])
def test_an_image_that_fits_is_returned_untouched(height: int, width: int) -> None:
    image = picture(width, height)
    assert fit(image, cover=(height, width), height=height, width=width) is image


def test_the_size_is_known_before_anything_is_resized() -> None:
    assert resized((30_000, 10), (32, 32)) == (96_000, 32)


def test_an_image_is_turned_flattened_and_scaled() -> None:
    image = picture(3, 2)
    image.getexif()[0x0112] = 6
    turned = np.rot90(np.asarray(image), k=-1)
    np.testing.assert_array_equal(np.asarray(upright_rgb(image)), turned)
    half = Image.new("RGBA", (1, 1), (100, 0, 0, 51))  # a fifth of it, over white
    assert upright_rgb(half).getpixel((0, 0)) == (224, 204, 204)
    deep = Image.fromarray(np.array([[0, 255, 256, 65_535]], np.uint16))
    assert np.asarray(upright_rgb(deep))[0, :, 0].tolist() == [0, 0, 1, 255]


def turned(identifier: int, kind: int, count: int, value: bytes, *values: int) -> bytes:
    """EXIF of a picture that is shown turned by 90 degrees, with another tag, which may point to values."""
    tags = struct.pack(">HHIHH", 0x0112, 3, 1, 6, 0), struct.pack(">HHI4s", identifier, kind, count, value)
    head = b"Exif\0\0MM\0*" + struct.pack(">IH", 8, len(tags))
    return head + b"".join(sorted(tags)) + bytes(4) + struct.pack(f">{len(values)}i", *values)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize(
    "description",
    [
        pytest.param(turned(0x0102, 11, 1, struct.pack(">f", 1.5)), id="a float where a whole number is due"),
        pytest.param(turned(0x0103, 9, 1, struct.pack(">i", -70_000)), id="a negative number"),
        pytest.param(turned(0x0101, 6, 1, b"\xfb\0\0\0"), id="a negative byte"),
        pytest.param(turned(0x0100, 2, 4, b"abc\0"), id="a text where a number is due"),
        pytest.param(turned(0x011A, 10, 1, struct.pack(">I", 38), -72, 1), id="a negative ratio"),
    ],
)
def test_a_picture_is_turned_whatever_else_its_camera_says(description: bytes, kind: str) -> None:
    file, options = io.BytesIO(), {"lossless": True} if kind == "WEBP" else {}
    picture(3, 2).save(file, kind, exif=description, **options)
    stored = np.asarray(Image.open(file).convert("RGB"))
    np.testing.assert_array_equal(np.asarray(upright_rgb(Image.open(file))), np.rot90(stored, k=-1))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("description", [b"Exif\0\0", b"Exif\0\0garbage", b"no EXIF at all"])
def test_a_broken_description_leaves_the_picture_as_it_is(description: bytes, kind: str) -> None:
    file = io.BytesIO()
    picture(3, 2).save(file, kind, exif=description)
    np.testing.assert_array_equal(
        np.asarray(upright_rgb(Image.open(file))), np.asarray(Image.open(file).convert("RGB"))
    )


@pytest.mark.parametrize("value", range(1, 9))
def test_every_orientation_is_the_one_that_pillow_shows(value: int) -> None:
    image = picture(3, 2)
    image.getexif()[0x0112] = value
    shown = ImageOps.exif_transpose(image)
    np.testing.assert_array_equal(np.asarray(upright_rgb(image)), np.asarray(shown))


@pytest.mark.parametrize("size", [(1500, 1000), (1000, 1500), (40_000, 40), (40, 40_000)])
def test_a_big_image_is_fitted_as_its_whole_in_rgb_is(size: tuple[int, int]) -> None:
    image = picture(*size).quantize(16)
    image.info["transparency"] = bytes(range(0, 256, 16))
    whole = fit(upright_rgb(image.copy()), cover=(32, 32), height=32, width=32)
    assert fit(upright(image), cover=(32, 32), height=32, width=32) == whole


@pytest.mark.parametrize("size", [(1500, 1000), (1000, 3000)])
def test_a_big_image_is_resized_as_torchvision_does_but_for_a_level(size: tuple[int, int]) -> None:
    image = picture(*size)
    ours, expected = fit(image, cover=(32, 32), height=32, width=32), CenterCrop(32)(Resize(32)(image))
    np.testing.assert_allclose(np.asarray(ours, int), np.asarray(expected, int), atol=1)


@pytest.mark.parametrize(
    "kind", ["turned.png", "turned.jpg", "transparent.png", "palette.gif", "16 bit.png", "plain.bmp", "plain.jpg"]
)
def test_training_and_serving_see_the_same_pixels(kind: str, tmp_path: Path) -> None:
    image, path = picture(40, 36), tmp_path / kind
    options: dict[str, Any] = {}
    if kind.startswith("turned"):
        exif = Image.Exif()
        exif[0x0112] = 6
        options = {"exif": exif}
    elif kind.startswith("transparent"):
        image.putalpha(picture(40, 36).getchannel(0))
    elif kind.startswith("palette"):
        image, options = image.quantize(16), {"transparency": 3}
    elif kind.startswith("16"):
        image = Image.fromarray(np.random.default_rng(0).integers(0, 65_536, (36, 40), np.uint16))
    image.save(path, **options)

    for height, width in (32, 32), (36, 40), (24, 48):
        cover = height, width
        preprocessing = Preprocessing(resize_to_cover=cover, mean=(0, 0, 0), std=(1 / 255, 1 / 255, 1 / 255))
        decoder = Decoder(preprocessing, (3, height, width), max_pixels=10_000, threads=1, max_waiting=1)
        served = decoder.read(path.read_bytes())
        decoder.close()
        trained = np.asarray(fit(open_image(path), cover=cover, height=height, width=width))
        np.testing.assert_allclose(served.transpose(1, 2, 0), trained, atol=1e-3)
