"""The flags that name the system under load, and the system."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import get_args

from benchmarks.command import add_images, positive_float, positive_int, service_url
from benchmarks.labelled import check_labels
from benchmarks.load.dialects import Predict
from benchmarks.load.local import Local
from benchmarks.load.remote import Remote
from benchmarks.load.system import System
from model_core.errors import ModelError
from model_core.package import EnsembleFigures
from service.errors import ServiceError, SettingsError
from service.policies import parse_policy
from service.runners.names import RunnerName
from service.state import EngineSettings

__all__ = ["add_calibration", "add_local", "add_system", "check_policies", "local_of", "system_of"]


def add_local(parser: argparse.ArgumentParser, *, images: int = 2000) -> None:
    """Flags of an engine in this process."""
    add_images(parser, images)
    parser.add_argument("--model", type=Path, help="package to serve; unset, the shipped one")
    parser.add_argument("--runner", choices=get_args(RunnerName), default="auto", help="what computes the steps")
    parser.add_argument("--threads", type=positive_int, help="CPU threads that compute a step; unset, one per core")


def add_system(parser: argparse.ArgumentParser) -> None:
    """Flags of an engine in this process or of a server that runs."""
    add_local(parser)
    batch = EngineSettings().max_batch
    parser.add_argument("--max-batch", type=positive_int, default=batch, help="requests that share a step")
    parser.add_argument(
        "--url", type=service_url, help="a running server, which knows its own model, runner and policy"
    )
    add_calibration(parser)


def add_calibration(parser: argparse.ArgumentParser) -> None:
    """The flag of what is measured first."""
    parser.add_argument(
        "--calibration", type=positive_float, default=3, help="seconds to measure capacity and latency for, each"
    )


def local_of(options: argparse.Namespace, images: Sequence[tuple[str, bytes]], *, max_batch: int) -> Local:
    """The engine that the flags name, in this process."""
    try:
        return Local(
            options.model,
            images,
            limits=EngineSettings(max_batch=max_batch),
            threads=options.threads,
            runner=options.runner,
        )
    except (ModelError, ServiceError) as error:
        raise SystemExit(f"the model cannot be served: {error}") from error


def check_policies(names: Iterable[str], table: Sequence[EnsembleFigures]) -> None:
    """Refuse what is no policy's name before anything is measured.

    Raises:
        SystemExit: says which there are.
    """
    try:
        for name in names:
            parse_policy(name, table)
    except SettingsError as error:
        raise SystemExit(str(error)) from error


def system_of(options: argparse.Namespace, images: Sequence[tuple[str, bytes]]) -> System:
    """The system that the flags name, if it knows the images' classes."""
    if options.url:
        remote = Remote(options.url, images, Predict(options="top_k=1"))
        check_labels(images, remote.card["class_names"])
        return remote
    local = local_of(options, images, max_batch=options.max_batch)
    check_labels(images, local.manifest.class_names)
    return local
