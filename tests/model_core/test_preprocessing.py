"""Resizing and cropping equal torchvision's, which is what published figures are measured with."""

import numpy as np
import pytest
from PIL import Image
from torchvision.transforms import CenterCrop, Compose, Resize

from model_core.preprocessing import fit, resized


def picture(width: int, height: int) -> Image.Image:
    pixels = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    return Image.fromarray(pixels)


@pytest.mark.parametrize("size", [(32, 32), (33, 32), (31, 32), (100, 57), (57, 101), (500, 375), (20, 300)])
@pytest.mark.parametrize("target", [(32, 32), (28, 28), (27, 32), (24, 31)])
def test_it_equals_resize_and_centre_crop(size: tuple[int, int], target: tuple[int, int]) -> None:
    height, width = target
    expected = Compose([Resize(32), CenterCrop(target)])(picture(*size))
    ours = fit(picture(*size), shorter_side=32, height=height, width=width)
    assert ours.size == (width, height)
    np.testing.assert_array_equal(np.asarray(ours), np.asarray(expected))


def test_an_image_that_fits_is_returned_untouched() -> None:
    image = picture(32, 32)
    assert fit(image, shorter_side=32, height=32, width=32) is image


def test_the_size_is_known_before_anything_is_resized() -> None:
    assert resized((30_000, 10), 32) == (96_000, 32)
