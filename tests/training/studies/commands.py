"""`hne-train study` as the tests ask for it: short, on a CPU, of the tiny model."""

from __future__ import annotations

from pathlib import Path

__all__ = ["SETTINGS", "study"]

SETTINGS = "--dataset folder --epochs 2 --batch-size 24 --precision float32 --device cpu --threads 1"


def study(name: str, images: Path, out: Path, *more: str) -> list[str]:
    places = ["--architecture", "hne_tiny", "--data", str(images), "--out", str(out)]
    return ["study", name, *places, *SETTINGS.split(), *more]
