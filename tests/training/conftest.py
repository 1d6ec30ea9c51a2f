"""A tiny image folder and a tiny model: what the training tests train on, in seconds."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from model_core.spec import ModelSpec, Row
from tests.training.runs import CPU, settings, trainer
from training.data import ImageDataset, load_dataset
from training.trainer import new_run


@pytest.fixture(scope="session")
def image_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three classes of noisy single-coloured 16x16 images: 20 of each for training, 8 of each for testing."""
    root = tmp_path_factory.mktemp("images")
    random = np.random.default_rng(0)
    for split, count in (("train", 20), ("test", 8)):
        for channel, name in enumerate(("red", "green", "blue")):
            folder = root / split / name
            folder.mkdir(parents=True)
            for index in range(count):
                pixels = random.integers(0, 120, (16, 16, 3), dtype=np.uint8)
                pixels[..., channel] += 130
                Image.fromarray(pixels).save(folder / f"{index:02}.png")
    return root


@pytest.fixture(scope="session")
def small_spec() -> ModelSpec:
    """A real ensemble of four leaves, with the layers of Table 2 but few rows."""
    return ModelSpec(
        name="four_leaves",
        family="resnet",
        branching=(1, 2, 2),
        classes=3,
        input_shape=(3, 16, 16),
        rows=(
            (Row("conv3x3", 1, 1, 8),),
            (Row("resnet+branching", 2, 1, 16),),
            (Row("resnet+branching", 2, 1, 16), Row("classifier", 1, 1, 0)),
        ),
    )


@pytest.fixture(scope="module")
def data(image_folder: Path) -> ImageDataset:
    return load_dataset(settings(image_folder), size=(16, 16), device=CPU)


@pytest.fixture(scope="module")
def finished(
    image_folder: Path, small_spec: ModelSpec, data: ImageDataset, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The folder of a run that was never interrupted."""
    out = tmp_path_factory.mktemp("run")
    assert trainer(new_run(settings(image_folder), small_spec, data), data, out).train()
    return out
