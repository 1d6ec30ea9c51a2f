"""Images to send: an image folder of noise, whose class names are the tiny model's."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.labelled import labelled_images


@pytest.fixture(scope="session")
def image_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    random = np.random.default_rng(3)
    for index in range(8):
        path = folder / f"class {index % 4}" / f"{index}.jpg"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(random.integers(0, 256, (40, 40, 3), np.uint8)).save(path)
    return folder


@pytest.fixture(scope="session")
def images(image_folder: Path) -> list[tuple[str, bytes]]:
    return labelled_images(image_folder, 8, seed=0)
