"""Flags that several commands of `hne-train` have. The settings' flags follow from `TrainConfig`."""

from __future__ import annotations

import argparse
from collections.abc import Collection
from dataclasses import fields
from pathlib import Path
from types import NoneType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from model_core.zoo import ARCHITECTURES
from training.config import TrainConfig, settings

__all__ = ["add_places", "add_settings", "chosen_settings", "integers", "positive"]


def add_settings(group: argparse._ArgumentGroup, *, without: Collection[str] = ()) -> None:
    """One flag per field of `TrainConfig`. None means not given: the default, or on resuming what is stored."""
    hints, helps = get_type_hints(TrainConfig), settings()
    for item in fields(TrainConfig):
        if item.name in without or not helps[item.name].flag:
            continue
        kinds = [kind for kind in get_args(hints[item.name]) or (hints[item.name],) if kind is not NoneType]
        help = helps[item.name].help.replace("{architectures}", ", ".join(ARCHITECTURES))
        if item.default is not None:
            help += f" (default: {item.default})"
        choices = get_args(hints[item.name]) if get_origin(hints[item.name]) is Literal else None
        group.add_argument(
            f"--{item.name.replace('_', '-')}",
            type=str if choices else integers if get_origin(kinds[0]) is tuple else kinds[0],
            choices=choices,
            metavar=None if choices else item.name.upper(),
            help=help.replace("%", "%%"),
        )


def chosen_settings(parsed: argparse.Namespace) -> dict[str, Any]:
    """The settings that were given as flags."""
    given = vars(parsed)
    return {item.name: given[item.name] for item in fields(TrainConfig) if given.get(item.name) is not None}


def add_places(parser: argparse.ArgumentParser) -> None:
    """A run, and where and how it is looked at."""
    parser.add_argument("--run", type=Path, required=True, help="folder of the run")
    helps = settings()
    parser.add_argument("--data", type=Path, help="where the dataset lies, if it has moved since the training")
    parser.add_argument("--device", help=helps["device"].help)
    parser.add_argument("--threads", type=int, help=helps["threads"].help)


def integers(text: str) -> tuple[int, ...]:
    """Numbers with commas between them."""
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: expected integers with commas, such as 1,2,2,2,2") from None


def positive(text: str) -> float:
    """A number above zero."""
    value = float(text)
    if not value > 0:
        raise argparse.ArgumentTypeError(f"{text!r}: must be positive")
    return value
