"""Labelled images: those of a folder that holds one folder per class."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from pathlib import Path

__all__ = ["check_labels", "labelled_images"]

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}
NAMED = 10
"""Classes that a message names at most; ImageNet has a thousand."""


def labelled_images(folder: Path, count: int, seed: int) -> list[tuple[str, bytes]]:
    """`count` images of an image folder with their class names, shuffled.

    Raises:
        SystemExit: there are not so many.
    """
    files = sorted(path for path in folder.glob("*/*") if path.suffix.lower() in SUFFIXES)
    if len(files) < count:
        raise SystemExit(f"{folder} holds {len(files)} images in class folders; {count} are asked for")
    return [(path.parent.name, path.read_bytes()) for path in random.Random(seed).sample(files, count)]


def check_labels(images: Iterable[tuple[str, bytes]], class_names: Iterable[str]) -> None:
    """Refuse images of classes that a model does not know: none of its answers could be right.

    `images` are class names with encoded images; `class_names` are those of the model's card or manifest.

    Raises:
        SystemExit: names the unknown classes and the known ones.
    """
    known = list(class_names)
    if unknown := sorted({label for label, _ in images}.difference(known)):
        raise SystemExit(f"the model does not know the classes {_named(unknown)}; it knows {_named(known)}")


def _named(classes: Sequence[str]) -> str:
    more = f" and {len(classes) - NAMED} more" if len(classes) > NAMED else ""
    return ", ".join(map(repr, classes[:NAMED])) + more
