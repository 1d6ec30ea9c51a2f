"""Datasets as three splits: train, held out (for temperatures and thresholds) and test.

    load_dataset -> _cifar | _imagenet | _folder -> Images per split

Images of up to 64 pixels are decoded once and live in device memory; larger ones are read as they are needed.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torchvision import datasets

from model_core.package import Preprocessing
from model_core.preprocessing import fit
from training.config import TrainConfig
from training.errors import DataError
from training.images import DeviceImages, FileImages, Images, open_image
from training.lock import in_turn
from training.progress import bar
from training.randomness import generator

__all__ = ["ImageDataset", "download_cifar", "load_dataset"]

SMALL = 64
SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".webp", ".ppm", ".tif", ".tiff"})
# The same images are held out whatever the seed of the run, so that runs can be compared.
SPLIT_SEED = 0
# Of the ImageNet training images; customary for every data set of photographs.
IMAGENET_MEAN, IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

RGB = tuple[float, float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageDataset:
    """Three splits of one dataset, and what turns an image into the network's input."""

    train: Images
    held_out: Images
    test: Images
    class_names: tuple[str, ...]
    preprocessing: Preprocessing


class _Listing(NamedTuple):
    """What a split offers before anything is decoded: pixels (M, H, W, 3) uint8 or paths, and a label for each."""

    sources: np.ndarray | list[Path]
    labels: list[int]

    def take(self, indices: list[int]) -> _Listing:
        """Some of the images."""
        sources = self.sources
        taken = sources[indices] if isinstance(sources, np.ndarray) else [sources[index] for index in indices]
        return _Listing(taken, [self.labels[index] for index in indices])


def load_dataset(config: TrainConfig, *, size: tuple[int, int], device: torch.device) -> ImageDataset:
    """Find, split and, for small images, decode a dataset.

    Args:
        config: resolved settings.
        size: height and width of the network's input.

    Raises:
        DataError: the dataset is missing, a class is empty, there are not so many images, or one cannot be read.
    """
    match config.dataset:
        case "cifar10" | "cifar100":
            training, test, class_names = _cifar(config.dataset, config.data)
        case "imagenet":
            training, test, class_names = _imagenet(config.data)
        case "folder":
            training, test, class_names = _folder(config.data)
    assert config.held_out is not None
    train, held_out = _split(training, config.held_out, config.train_images)
    listings = (train, held_out, test)
    splits: list[Images]
    if min(size) <= SMALL:
        parts = [_pixels(listing, size) for listing in listings]
        mean, std = _statistics(parts[0])
        preprocessing = Preprocessing(resize_to_cover=size, mean=mean, std=std)
        splits = [
            DeviceImages(pixels.to(device), torch.tensor(listing.labels, device=device), preprocessing)
            for pixels, listing in zip(parts, listings, strict=True)
        ]
    else:
        cover = round(size[0] * 256 / 224), round(size[1] * 256 / 224)
        preprocessing = Preprocessing(resize_to_cover=cover, mean=IMAGENET_MEAN, std=IMAGENET_STD)
        splits = []
        for listing in listings:
            if isinstance(listing.sources, np.ndarray):
                raise DataError(
                    f"{config.dataset} has small images, {config.architecture} takes {size[0]}x{size[1]}: "
                    "choose another architecture, or --dataset imagenet or folder"
                )
            splits.append(
                FileImages(
                    listing.sources, listing.labels, preprocessing, size=size, device=device, workers=config.workers
                )
            )
    return ImageDataset(
        train=splits[0],
        held_out=splits[1],
        test=splits[2],
        class_names=class_names,
        preprocessing=preprocessing,
    )


def download_cifar(name: str, root: Path) -> list[datasets.CIFAR10]:
    """Training and test images of `cifar10` or `cifar100`, from the archive in a folder, or brought there.

    Raises:
        DataError: it cannot be downloaded.
    """
    dataset = datasets.CIFAR10 if name == "cifar10" else datasets.CIFAR100

    def splits(*, download: bool) -> list[datasets.CIFAR10]:
        return [dataset(root, train=train, download=download) for train in (True, False)]

    with suppress(RuntimeError):  # which says that it is not there
        return splits(download=False)
    try:
        with in_turn(root):  # torchvision downloads straight to where it looks
            return splits(download=True)
    except (OSError, RuntimeError) as error:
        raise DataError(
            f"{name} could not be downloaded to {root} ({error}); put its archive there, "
            "or train on images with --dataset folder"
        ) from error


def _cifar(name: str, root: Path) -> tuple[_Listing, _Listing, tuple[str, ...]]:
    splits = download_cifar(name, root)
    train, test = (_Listing(split.data, split.targets) for split in splits)
    return train, test, tuple(splits[0].classes)


def _imagenet(root: Path) -> tuple[_Listing, _Listing, tuple[str, ...]]:
    try:
        splits = [datasets.ImageNet(root, split=split) for split in ("train", "val")]
    except ModuleNotFoundError as error:
        raise DataError(
            f"torchvision reads ImageNet's class list with {error.name}: pip install {error.name}"
        ) from error
    except (OSError, RuntimeError) as error:
        raise DataError(
            f"ImageNet was not found in {root} ({error}); its licence allows no download here: get the archives "
            "from image-net.org and put them into that folder"
        ) from error
    train, test = (
        _Listing([Path(path) for path, _ in split.samples], [label for _, label in split.samples]) for split in splits
    )
    return train, test, tuple(names[0] for names in splits[0].classes)


def _folder(root: Path) -> tuple[_Listing, _Listing, tuple[str, ...]]:
    train = root / "train"
    test = next((path for path in (root / "test", root / "val") if path.is_dir()), None)
    if not train.is_dir() or test is None:
        raise DataError(
            f"{root} does not hold an image dataset: expected train/CLASS/IMAGE, and test/ or val/ beside train/; "
            "set it with --data"
        )
    class_names = tuple(sorted(path.name for path in train.iterdir() if path.is_dir()))
    if len(class_names) < 2:
        raise DataError(f"{train}: needs a folder of images for each of at least two classes, has {len(class_names)}")
    if strangers := sorted({path.name for path in test.iterdir() if path.is_dir()} - set(class_names)):
        raise DataError(f"{test}: classes without training images: {', '.join(strangers)}; remove or rename them")
    return _listed(train, class_names), _listed(test, class_names), class_names


def _listed(split: Path, class_names: tuple[str, ...]) -> _Listing:
    paths, labels = [], []
    for label, name in enumerate(class_names):
        folder = split / name
        found = sorted(path for path in folder.glob("*") if path.suffix.lower() in SUFFIXES)
        if not found:
            raise DataError(f"{folder}: no images of this class ({', '.join(sorted(SUFFIXES))}); add some or remove it")
        paths += found
        labels += [label] * len(found)
    return _Listing(paths, labels)


def _split(training: _Listing, held_out: float, train_images: int | None) -> tuple[_Listing, _Listing]:
    """Training images, all or so many of them, and held-out images, drawn at random."""
    count = len(training.labels)
    cut = max(1, round(count * held_out))
    most = count - cut
    if train_images is not None and train_images > most:
        raise DataError(f"--train-images {train_images}: of {count} images {cut} are held out, so at most {most}")
    order = torch.randperm(count, generator=generator(SPLIT_SEED)).tolist()
    train = training.take(sorted(order[cut:][:train_images]))
    if train_images is not None and len(set(train.labels)) < len(set(training.labels)):
        raise DataError(f"--train-images {train_images}: a class has none of them; take more")
    return train, training.take(sorted(order[:cut]))


def _pixels(listing: _Listing, size: tuple[int, int]) -> Tensor:
    """All images of a small dataset, resized and cropped as for evaluation: (M, 3, H, W) uint8."""
    sources, (height, width) = listing.sources, size
    if isinstance(sources, np.ndarray) and sources.shape[1:3] == size:
        pixels = sources
    else:
        images = map(Image.fromarray, sources) if isinstance(sources, np.ndarray) else map(open_image, sources)
        pixels = np.empty((len(listing.labels), height, width, 3), np.uint8)
        with bar("reading images", total=len(pixels), keep=False) as progress:
            for index, image in enumerate(images):
                pixels[index] = fit(image, cover=size, height=height, width=width)
                progress.update()
    return torch.from_numpy(pixels).permute(0, 3, 1, 2)


def _statistics(pixels: Tensor) -> tuple[RGB, RGB]:
    """Mean and standard deviation of each channel over a whole split, for values in 0..1.

    The deviation of a channel that is the same everywhere counts as 1: it becomes 0, where 0 / 0 is no number.
    """
    levels = torch.arange(256, dtype=torch.float64) / 255
    means, deviations = [], []
    for channel in pixels.unbind(1):  # by histogram: exact, and without a float copy of the dataset
        shares = channel.flatten().bincount(minlength=256).double() / channel.numel()
        mean = (shares * levels).sum()
        means.append(round(mean.item(), 6))
        deviations.append(round((shares * (levels - mean) ** 2).sum().sqrt().item(), 6) or 1.0)
    return _rgb(means), _rgb(deviations)


def _rgb(values: list[float]) -> RGB:
    red, green, blue = values
    return red, green, blue
