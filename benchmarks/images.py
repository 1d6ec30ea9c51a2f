"""Images: CIFAR-10 as a folder of JPEGs in the form of that which the records here were made with.

    python -m benchmarks.images --output 'CIFAR-10 (JPEG)'

torchvision downloads the archive, 170 MB. The folder has train/CLASS/NUMBER.jpg and test/CLASS/NUMBER.jpg, of quality
75 and with halved chroma. Needs the training libraries.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from tqdm import tqdm

__all__ = ["main", "write_images"]

QUALITY, SUBSAMPLING = 75, "4:2:0"


def write_images(
    folder: Path, pixels_nhwc: NDArray[np.uint8], labels: Sequence[int], class_names: Sequence[str]
) -> None:
    """Write CLASS/NUMBER.jpg for each of the images (N, H, W, 3), numbered within its class."""
    for name in class_names:
        (folder / name).mkdir(parents=True)
    written: Counter[int] = Counter()
    for pixels_hwc, label in zip(tqdm(pixels_nhwc, desc=str(folder), unit="img"), labels, strict=True):
        path = folder / class_names[label] / f"{written[label]:04d}.jpg"
        Image.fromarray(pixels_hwc).save(path, quality=QUALITY, subsampling=SUBSAMPLING)
        written[label] += 1


def main(arguments: Sequence[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.images", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--output", type=Path, required=True, help="a new folder")
    parser.add_argument("--data", type=Path, default=Path("data"), help="where the archive is kept (default: data)")
    options = parser.parse_args(arguments)
    if options.output.exists():
        raise SystemExit(f"{options.output} is there already: remove it, or name another --output")
    from training.data import download_cifar  # takes seconds, after the mistake that takes none
    from training.errors import DataError

    try:
        splits = download_cifar("cifar10", options.data)
    except DataError as error:
        raise SystemExit(str(error)) from error
    for name, split in zip(("train", "test"), splits, strict=True):
        write_images(options.output / name, split.data, split.targets, split.classes)


if __name__ == "__main__":
    main()
