"""One split of a dataset as batches of normalised images: in device memory, or read from files as they are needed.

Both forms answer the same calls, so the trainer does not know which one it has. Shape legend: M images, B batch.
"""

from __future__ import annotations

import abc
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision.transforms import v2

from model_core.package import Preprocessing
from model_core.preprocessing import fit, upright_rgb
from training.augment import crop_and_flip
from training.errors import DataError
from training.randomness import AUGMENTATION, ORDER, generator, mixed_seed
from training.signals import outlive_a_signal

__all__ = ["DeviceImages", "FileImages", "Images", "open_image"]

Batch = tuple[Tensor, Tensor]
"""Normalised images (B, 3, H, W) float32 channels-last, and labels (B,) int64, on the device."""


class Images(abc.ABC):
    """One split: M labelled images."""

    def __init__(self, labels: Tensor) -> None:
        self.labels = labels

    def __len__(self) -> int:
        return len(self.labels)

    def training_batches(self, batch_size: int, *, seed: int, epoch: int, start: int = 0) -> Iterator[Batch]:
        """Shuffled, augmented batches of one epoch from batch `start` on; an incomplete last one is left out."""
        order = torch.randperm(len(self), generator=generator(seed, ORDER, epoch))
        steps = len(self) // batch_size
        batches = order[: steps * batch_size].view(steps, batch_size)
        return self._training_batches(batches[start:], seed=seed, epoch=epoch, start=start)

    @abc.abstractmethod
    def _training_batches(self, batches: Tensor, *, seed: int, epoch: int, start: int) -> Iterator[Batch]:
        """The batches whose image indices are the rows of `batches`."""

    @abc.abstractmethod
    def evaluation_batches(self, batch_size: int) -> Iterator[Batch]:
        """Every image once, in order, unaugmented."""


class DeviceImages(Images):
    """Small images, kept in device memory as one uint8 tensor (M, 3, H, W)."""

    def __init__(self, pixels: Tensor, labels: Tensor, preprocessing: Preprocessing) -> None:
        super().__init__(labels)
        self.pixels = pixels
        self._mean = torch.tensor(preprocessing.mean, device=pixels.device)[:, None, None]
        self._std = torch.tensor(preprocessing.std, device=pixels.device)[:, None, None]

    def _training_batches(self, batches: Tensor, *, seed: int, epoch: int, start: int) -> Iterator[Batch]:
        device = self.pixels.device
        for step, indices in enumerate(batches.to(device), start):
            draws = generator(seed, AUGMENTATION, epoch, step, device=device)
            yield self._normalised(crop_and_flip(self.pixels[indices], draws)), self.labels[indices]

    def evaluation_batches(self, batch_size: int) -> Iterator[Batch]:
        for pixels, labels in zip(
            torch.split(self.pixels, batch_size), torch.split(self.labels, batch_size), strict=True
        ):
            yield self._normalised(pixels), labels

    def _normalised(self, pixels: Tensor) -> Tensor:
        images = (pixels.float() / 255 - self._mean) / self._std
        return images.contiguous(memory_format=torch.channels_last)


class FileImages(Images):
    """Large images, decoded and augmented by worker processes: the protocol of MSDNet on ImageNet."""

    def __init__(
        self,
        paths: Sequence[Path],
        labels: Sequence[int],
        preprocessing: Preprocessing,
        *,
        size: tuple[int, int],
        device: torch.device,
        workers: int,
    ) -> None:
        super().__init__(torch.tensor(labels))
        self._paths, self._device, self._workers = tuple(paths), device, workers
        to_float = [
            v2.ToImage(),
            v2.ToDtype(torch.float32, scale=True),
            v2.Normalize(list(preprocessing.mean), list(preprocessing.std)),
        ]
        self._training = v2.Compose([v2.RandomResizedCrop(size), v2.RandomHorizontalFlip(), *to_float])
        height, width = size
        centre = partial(fit, cover=preprocessing.resize_to_cover, height=height, width=width)
        self._evaluation = v2.Compose([centre, *to_float])

    def _training_batches(self, batches: Tensor, *, seed: int, epoch: int, start: int) -> Iterator[Batch]:
        seeds = (seed, AUGMENTATION, epoch)
        return self._load(_FileDataset(self._paths, self.labels, self._training, seeds=seeds), batches.tolist())

    def evaluation_batches(self, batch_size: int) -> Iterator[Batch]:
        batches = torch.split(torch.arange(len(self)), batch_size)
        return self._load(_FileDataset(self._paths, self.labels, self._evaluation), [b.tolist() for b in batches])

    def _load(self, dataset: Dataset[tuple[Tensor, Tensor]], batches: list[list[int]]) -> Iterator[Batch]:
        pinned = self._device.type == "cuda"
        loader = DataLoader(
            dataset,
            batch_sampler=batches,
            num_workers=self._workers,
            pin_memory=pinned,
            worker_init_fn=outlive_a_signal,
        )
        try:
            for images, labels in loader:
                images = images.to(self._device, memory_format=torch.channels_last, non_blocking=True)
                yield images, labels.to(self._device, non_blocking=True)
        except DataError as error:  # a worker's error arrives with its traceback in the message
            raise DataError(str(error).strip().rpartition("DataError: ")[2]) from None


class _FileDataset(Dataset[tuple[Tensor, Tensor]]):
    """Decodes and transforms; random transforms are seeded per image, so worker processes do not matter."""

    def __init__(self, paths: tuple[Path, ...], labels: Tensor, transform: Any, *, seeds: tuple[int, ...] = ()) -> None:
        self._paths, self._labels, self._transform, self._seeds = paths, labels, transform, seeds

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        image = open_image(self._paths[index])
        with torch.random.fork_rng(devices=()):
            torch.manual_seed(mixed_seed(*self._seeds, index))
            return self._transform(image), self._labels[index]


def open_image(path: Path) -> Image.Image:
    """Decode a file to upright RGB.

    Raises:
        DataError: it cannot be decoded; names the file.
    """
    try:
        with Image.open(path) as image:
            image.load()
            return upright_rgb(image)
    except Exception as error:  # parsers of damaged files raise nearly everything, from struct.error to KeyError
        raise DataError(
            f"{path}: not a readable image ({error}); repair it, or remove it before a new run: one under way needs it"
        ) from error
