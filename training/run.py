"""A run from outside: begun, opened with its device and data, evaluated. The commands and the studies share it."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from model_core.costs import count_costs
from model_core.spec import ModelSpec
from model_core.zoo import architecture
from training.config import Precision, TrainConfig
from training.data import ImageDataset, load_dataset
from training.errors import ConfigError, RunError
from training.evaluation import Evaluation, evaluate, versions
from training.memory import keep_freed_memory
from training.plots import plot_evaluation
from training.run_state import RunState, check_data, differences
from training.teacher import with_teacher
from training.trainer import new_run

__all__ = [
    "EVALUATION_FILE",
    "advise",
    "begin",
    "check_network",
    "dataset_name",
    "device_of",
    "evaluate_run",
    "fast_precision",
    "open_data",
    "reopen",
    "spec_of",
]

EVALUATION_FILE = "evaluation.json"
BF16_INSTRUCTIONS = ("avx512_bf16", "amx_bf16", "bf16", "sve_bf16")
"""Any of these, of x86 or ARM, makes bf16 fast on a CPU."""


def spec_of(config: TrainConfig) -> ModelSpec:
    """The architecture that the settings name, with its own number of classes.

    Raises:
        ConfigError: it takes no RGB images, or the loss has nothing to train on its tree.
    """
    spec = architecture(config.architecture, branching=config.branching)
    if (channels := spec.input_shape[0]) != 3:
        raise ConfigError(
            f"--architecture {config.architecture}: takes images of {channels} channels, but they are read as RGB; "
            "let it take 3"
        )
    if config.loss == "hd" and spec.tree.leaves == 1:
        raise ConfigError("--loss hd: a single network has no smaller ensembles to distil into; choose i, or d")
    return spec


def check_network(stored: ModelSpec, config: TrainConfig, *, where: Path) -> None:
    """Make sure that the settings name the network that a run was begun with, or a record measured; `where` that is
    kept. Its own name may be another, and its classes are the data's.

    Raises:
        RunError: it has changed since.
    """
    if changed := differences(spec_of(config).replace(name=stored.name, classes=stored.classes), stored):
        raise RunError(
            f"{where}: the network {config.architecture} has changed since: {changed}; "
            "move the folder away, or choose another --out"
        )


def begin(config: TrainConfig, data: ImageDataset) -> RunState:
    """A new run of resolved settings, before its first step.

    Raises:
        RunError: its teacher is missing.
        SpecError: the network cannot be an ensemble.
    """
    state = new_run(with_teacher(config), spec_of(config).replace(classes=len(data.class_names)), data)
    count_costs(state.model)  # what cannot be counted could never be evaluated
    return state


def reopen(state: RunState, places: dict[str, Any]) -> tuple[RunState, torch.device, ImageDataset]:
    """A stored run with its device and its data, which may have moved."""
    state = replace(state, config=state.config.resumed_with(places))
    device = device_of(state.config)
    data = open_data(state.config, state.model.spec, device)
    check_data(data, state.data, where="the run")
    return state, device, data


def device_of(config: TrainConfig) -> torch.device:
    """The device that the settings name; this process is set up for it.

    Raises:
        ConfigError: it is not usable here.
    """
    name = config.device
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"--device {name}: not usable here ({str(error).splitlines()[0]}); try cpu") from error
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    if device.type == "cpu":
        keep_freed_memory()
    else:  # for matrix products, too: they are what convolutions are computed as, which cuDNN does in it
        torch.backends.cuda.matmul.allow_tf32 = True
    return device


def fast_precision(device: torch.device) -> Precision:
    """What to compute in here where nothing else was asked for: bf16, unless this CPU or GPU has no instructions for
    it. GPUs older than Ampere compute it, but slower than float32."""
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "float32"
    known: Mapping[str, Any] = getattr(torch.cpu, "get_capabilities", dict)()  # older versions of torch cannot tell
    slow = device.type == "cpu" and known and not any(map(known.get, BF16_INSTRUCTIONS))
    return "float32" if slow else "bf16"


def advise(config: TrainConfig, device: torch.device) -> None:
    """Say on standard error what will make a new run needlessly slow on this machine."""
    if config.precision == "bf16" and fast_precision(device) != "bf16":
        unit = "GPU" if device.type == "cuda" else "CPU"
        advice = f"this {unit} has no bf16 instructions: a run with --precision float32 would be much faster"
        print(f"hne-train: {advice}", file=sys.stderr)


def open_data(config: TrainConfig, spec: ModelSpec, device: torch.device) -> ImageDataset:
    """The dataset that the settings name, for a model's input size."""
    _, height, width = spec.input_shape
    return load_dataset(config, size=(height, width), device=device)


def dataset_name(config: TrainConfig) -> str:
    """What a person calls the dataset."""
    return config.data.resolve().name if config.dataset == "folder" else config.dataset


def evaluate_run(
    folder: Path, state: RunState, device: torch.device, data: ImageDataset, *, command: str
) -> Evaluation:
    """Measure the result of a stored run; write it into the run's folder, with a plot. A crash leaves a whole file or
    none."""
    assert state.sha256 is not None
    config = state.config
    measured = evaluate(state.result().to(device), data)
    evaluation = Evaluation(
        architecture=state.model.spec.name,
        evaluated_on=f"{len(data.test):,} test images of {dataset_name(config)}",
        run_sha256=state.sha256,
        epochs=state.epochs,
        seed=config.seed,
        command=command,
        versions=versions(),
        settings=config.decisive(),
        data=state.data,
        spec=state.model.spec,
        **measured._asdict(),
    )
    path = folder / EVALUATION_FILE
    plot_evaluation(evaluation, path.with_suffix(".svg"), path.with_suffix(".png"))
    temporary = path.with_name(f".{path.name}.part")
    temporary.write_text(evaluation.model_dump_json(indent=1) + "\n", encoding="utf-8")
    os.replace(temporary, path)
    return evaluation
