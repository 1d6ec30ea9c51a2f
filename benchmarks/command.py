"""The command line that the benchmarks share: flags, what their values may be, and how a run ends that cannot go on."""

from __future__ import annotations

import argparse
import http.client
import math
import os
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit

__all__ = [
    "add_images",
    "add_output",
    "arguments",
    "deadline",
    "not_negative",
    "positive_float",
    "positive_int",
    "run",
    "service_url",
    "share",
]


def arguments(description: str | None, *, images: int, results: str, url: bool = True) -> argparse.ArgumentParser:
    """The flags that every benchmark has; `url` only where it measures a service that runs already."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    if url:
        parser.add_argument("--url", type=service_url, default="http://127.0.0.1:8000", help="the running service")
    add_images(parser, images)
    add_output(parser, results)
    return parser


def add_images(parser: argparse.ArgumentParser, number: int) -> None:
    """The flags of the images that are sent, `number` of them unless told otherwise."""
    add = parser.add_argument
    add("--images", type=Path, required=True, help="a folder with one folder of images per class")
    add(
        "--count", type=positive_int, default=number, help="images to send, drawn evenly from all classes (%(default)s)"
    )
    add("--seed", type=int, default=0, help="of what is drawn (%(default)s)")


def add_output(parser: argparse.ArgumentParser, results: str) -> None:
    """The flag of the report, which is written last: what is wrong with it is said first."""
    path = f"benchmarks/results/{results}"
    parser.add_argument("--output", type=_output, default=path, help="where the JSON goes (%(default)s)")


def positive_int(text: str) -> int:
    """1 or more."""
    if (number := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, got {number}")
    return number


def positive_float(text: str) -> float:
    """More than 0, and finite."""
    if not 0 < (number := float(text)) < math.inf:
        raise argparse.ArgumentTypeError(f"must be more than 0, got {number:g}")
    return number


def deadline(text: str) -> float:
    """More than 0; `inf` for none."""
    return math.inf if text == "inf" else positive_float(text)


def not_negative(text: str) -> float:
    """0 or more, and finite."""
    return 0.0 if float(text) == 0 else positive_float(text)


def share(text: str) -> float:
    """0 to 1."""
    if not 0 <= (number := float(text)) <= 1:
        raise argparse.ArgumentTypeError(f"must be from 0 to 1, got {number:g}")
    return number


def service_url(text: str) -> str:
    """The address of a service."""
    try:
        address = urlsplit(text)
        valid = address.scheme == "http" and address.hostname and address.port != 0
    except ValueError:  # of the port
        valid = False
    if not valid:
        raise argparse.ArgumentTypeError(f"must look like http://127.0.0.1:8000, got {text!r}")
    return text.rstrip("/")


def run(main: Callable[[], None]) -> None:
    """Run a benchmark, with one line instead of a traceback where it cannot go on or is told to end. Whatever it has
    started ends as well.
    """
    before = signal.signal(signal.SIGTERM, lambda *_: sys.exit("ended by SIGTERM"))
    try:
        main()
    except (ConnectionError, TimeoutError, socket.gaierror, http.client.HTTPException) as error:
        raise SystemExit(f"the service does not answer: {error!r}") from error
    except OSError as error:
        raise SystemExit(str(error)) from error
    except KeyboardInterrupt:
        sys.exit(130)  # as shells say it
    finally:
        signal.signal(signal.SIGTERM, before)


def _output(text: str) -> Path:
    path = Path(text)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise argparse.ArgumentTypeError(str(error)) from error
    if path.is_dir() or not os.access(path if path.exists() else path.parent, os.W_OK):
        raise argparse.ArgumentTypeError(f"cannot write the file {text}")
    return path
