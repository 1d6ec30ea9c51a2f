"""CIFAR-10 as a folder of JPEGs."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from PIL.JpegImagePlugin import get_sampling

from benchmarks.images import main, write_images


def test_images_are_numbered_within_their_class_and_close_to_what_they_were(tmp_path: Path) -> None:
    ramp_hw = np.add.outer(np.arange(0, 128, 4), np.arange(0, 128, 4)).astype(np.uint8)
    pixels_nhwc = np.stack([np.repeat(ramp_hw[..., None] // (i + 1), 3, axis=2) for i in range(3)])
    write_images(tmp_path / "test", pixels_nhwc, [1, 0, 1], ["cat", "dog"])
    assert sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.jpg")) == [
        "test/cat/0000.jpg",
        "test/dog/0000.jpg",
        "test/dog/0001.jpg",
    ]
    with Image.open(tmp_path / "test/dog/0001.jpg") as image:
        assert np.abs(np.asarray(image).astype(int) - pixels_nhwc[2]).mean() < 2
        assert get_sampling(image) == 2, "4:2:0"


def test_what_is_there_is_left_alone(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="is there already"):
        main(["--output", str(tmp_path)])
    assert not list(tmp_path.iterdir())


def test_without_the_archive_it_says_where_to_put_it(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("no folder")
    with pytest.raises(SystemExit, match="put its archive there"):
        main(["--output", str(tmp_path / "images"), "--data", str(tmp_path / "data")])
