"""`hne-train`: train a hierarchical ensemble, evaluate it at every size, export it for serving."""

from __future__ import annotations

import argparse
import shlex
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path
from types import FrameType, NoneType
from typing import Literal, get_args, get_origin, get_type_hints

import torch

from model_core.errors import ModelError
from model_core.package import digest
from model_core.spec import ModelSpec
from model_core.zoo import architecture
from training.config import TrainConfig, settings
from training.data import ImageDataset, load_dataset
from training.errors import ConfigError, RunError, TrainingError
from training.evaluation import Evaluation, evaluate, versions
from training.export import export_package
from training.memory import keep_freed_memory
from training.plots import plot_evaluation
from training.progress import LOG_FILE
from training.run_state import STATE_FILE, RunState
from training.trainer import RunOptions, Trainer, check_data, new_run

__all__ = ["main"]

EVALUATION_FILE = "evaluation.json"
VERIFIED_IMAGES = 32


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command. Returns the exit code: 0 done, 2 for input that cannot be used, 128 + n after signal n."""
    words = sys.argv[1:] if arguments is None else arguments
    parsed = _parser().parse_args(words)
    parsed.words = shlex.join(["hne-train", *words])
    command = parsed.command
    try:
        code: int = command(parsed)
        return code
    except (TrainingError, ModelError) as error:
        print(f"hne-train: {error}", file=sys.stderr)
        return 2


def _train(parsed: argparse.Namespace) -> int:
    chosen = {item.name: value for item in fields(TrainConfig) if (value := getattr(parsed, item.name)) is not None}
    out: Path = parsed.out
    if parsed.resume:
        state = RunState.load(out)
        state = replace(state, config=state.config.resumed_with(chosen))
        device, data = _opened(state.config, state.model.spec)
    elif (out / STATE_FILE).exists():
        raise RunError(f"{out} holds a run already: continue it with --resume, or choose another --out")
    else:
        config = TrainConfig(**chosen).resolved()
        spec = architecture(config.architecture, branching=config.branching)
        device, data = _opened(config, spec)
        state = new_run(config, spec.replace(classes=len(data.class_names)), data)
    with _stop_signals() as received:
        options = RunOptions(
            out=out,
            save_seconds=parsed.save_minutes * 60,
            max_seconds=None if parsed.max_minutes is None else parsed.max_minutes * 60,
            stop_requested=lambda: bool(received),
        )
        trainer = Trainer(state, data, options, device)
        complete = trainer.train()
    if complete:
        print(f"trained {trainer.epochs} epochs; next: hne-train evaluate --run {out}")
    else:
        epoch, step, _ = trainer.position
        print(f"stopped in epoch {epoch + 1} after {step} steps; continue with: hne-train train --resume --out {out}")
    return 128 + received[0] if received else 0


def _evaluate(parsed: argparse.Namespace) -> int:
    folder: Path = parsed.run
    state, device, data = _reopened(parsed)
    config = state.config
    sizes, leaves = evaluate(state.model.to(device), data)
    evaluation = Evaluation(
        architecture=state.model.spec.name,
        evaluated_on=f"{len(data.test):,} test images of {_dataset_name(config)}",
        run_sha256=digest(folder / STATE_FILE).sha256,
        epochs=state.epochs,
        seed=config.seed,
        command=parsed.words,
        versions=versions(),
        settings=config.decisive(),
        sizes=tuple(sizes),
        leaf_accuracies=tuple(leaves),
    )
    path = folder / EVALUATION_FILE
    path.write_text(evaluation.model_dump_json(indent=1) + "\n", encoding="utf-8")
    plots = path.with_suffix(".svg"), path.with_suffix(".png")
    plot_evaluation(evaluation, *plots)
    print(evaluation)
    print(f"wrote {path}, {plots[0].name} and {plots[1].name}")
    return 0


def _export(parsed: argparse.Namespace) -> int:
    folder: Path = parsed.run
    evaluation = Evaluation.load(folder / EVALUATION_FILE)
    if evaluation.run_sha256 != digest(folder / STATE_FILE).sha256:
        raise RunError(f"{folder}: trained further since it was evaluated; run `hne-train evaluate` again")
    state, _, data = _reopened(parsed)
    images, _ = next(iter(data.test.evaluation_batches(VERIFIED_IMAGES)))
    package = export_package(
        state.model.cpu(),
        parsed.out,
        name=parsed.name or state.model.spec.name.replace("_", "-"),
        version=parsed.version,
        class_names=state.data.class_names,
        preprocessing=state.data.preprocessing,
        table=evaluation.table,
        evaluated_on=evaluation.evaluated_on,
        training={**evaluation.settings, "dataset": _dataset_name(state.config), "epochs_trained": state.epochs},
        images=images.cpu().contiguous(),
        overwrite=parsed.overwrite,
    )
    print(f"wrote {package.root}: {package.manifest.name} {package.manifest.version}, sha256 {package.sha256[:12]}")
    return 0


def _reopened(parsed: argparse.Namespace) -> tuple[RunState, torch.device, ImageDataset]:
    """A run with its data, which may have moved."""
    state = RunState.load(parsed.run)
    places = {name: value for name in ("data", "device", "threads") if (value := getattr(parsed, name)) is not None}
    state = replace(state, config=state.config.resumed_with(places))
    device, data = _opened(state.config, state.model.spec)
    check_data(data, state)
    return state, device, data


def _opened(config: TrainConfig, spec: ModelSpec) -> tuple[torch.device, ImageDataset]:
    """Device and dataset of a run, this process set up for them."""
    device = _device(config.device)
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    if device.type == "cpu":
        keep_freed_memory()
    _, height, width = spec.input_shape
    return device, load_dataset(config, size=(height, width), device=device)


def _dataset_name(config: TrainConfig) -> str:
    return config.data.resolve().name if config.dataset == "folder" else config.dataset


@contextmanager
def _stop_signals() -> Iterator[list[int]]:
    """Collect SIGINT and SIGTERM instead of dying from them; a second one is taken seriously."""
    received: list[int] = []

    def remember(number: int, frame: FrameType | None) -> None:
        received.append(number)
        signal.signal(number, previous[signal.Signals(number)])

    previous = {number: signal.signal(number, remember) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f"--device {name}: not usable here ({str(error).splitlines()[0]}); try cpu") from error
    return device


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="hne-train",
        description="Train a hierarchical neural ensemble, evaluate it at every ensemble size, export it for serving.",
        epilog="first steps:\n"
        "  hne-train train --architecture hne_tiny --dataset cifar10 --epochs 1 --out runs/first\n"
        "  hne-train evaluate --run runs/first\n"
        "  hne-train export --run runs/first --out runs/first/package\n",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    train = commands.add_parser(
        "train",
        help="train a model; can be stopped at any time and resumed",
        description="Train a model. Stop it at any time with Ctrl-C; --resume continues to the same weights.",
    )
    train.set_defaults(command=_train)
    run = train.add_argument_group("the run")
    run.add_argument("--out", type=Path, required=True, help=f"folder of the run: {STATE_FILE} and {LOG_FILE}")
    run.add_argument("--resume", action="store_true", help="continue the run in --out; its settings are remembered")
    run.add_argument("--max-minutes", type=_positive, help="stop after this time, saved")
    run.add_argument("--save-minutes", type=_positive, default=5.0, help="longest time between saves (default: 5)")
    _add_settings(train.add_argument_group("settings", "Defaults are the paper's (Appendix A)."))

    evaluation = commands.add_parser(
        "evaluate",
        help="measure every ensemble size on the test images",
        description=f"Measure every ensemble size: accuracy, likelihood, calibration, diversity, FLOPs. Writes "
        f"{EVALUATION_FILE} and a plot into the run's folder. Works at any moment of a training.",
    )
    evaluation.set_defaults(command=_evaluate)
    _add_places(evaluation)

    export = commands.add_parser(
        "export",
        help="turn an evaluated run into a model package for hne-serve",
        description="Write a model package: weights, one ONNX graph per step, manifest, model card. Every graph is "
        "compared with PyTorch on real test images first.",
    )
    export.set_defaults(command=_export)
    _add_places(export)
    export.add_argument("--out", type=Path, required=True, help="folder of the package")
    export.add_argument("--name", help="name of the model (default: its architecture's)")
    export.add_argument("--version", default="1", help="version of the model (default: 1)")
    export.add_argument("--overwrite", action="store_true", help="replace a package that is already there")
    return parser


def _add_places(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--run", type=Path, required=True, help="folder of the run")
    helps = settings()
    parser.add_argument("--data", type=Path, help="where the dataset lies, if it has moved since the training")
    parser.add_argument("--device", help=helps["device"].help)
    parser.add_argument("--threads", type=int, help=helps["threads"].help)


def _add_settings(group: argparse._ArgumentGroup) -> None:
    """One flag per field of `TrainConfig`. None means not given: the default, or on resuming what is stored."""
    hints, helps = get_type_hints(TrainConfig), settings()
    for item in fields(TrainConfig):
        kinds = [kind for kind in get_args(hints[item.name]) or (hints[item.name],) if kind is not NoneType]
        help = helps[item.name].help
        if item.default is not None:
            help += f" (default: {item.default})"
        choices = get_args(hints[item.name]) if get_origin(hints[item.name]) is Literal else None
        group.add_argument(
            f"--{item.name.replace('_', '-')}",
            type=str if choices else _integers if get_origin(kinds[0]) is tuple else kinds[0],
            choices=choices,
            metavar=None if choices else item.name.upper(),
            help=help.replace("%", "%%"),
        )


def _integers(text: str) -> tuple[int, ...]:
    try:
        return tuple(int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r}: expected integers with commas, such as 1,2,2,2,2") from None


def _positive(text: str) -> float:
    value = float(text)
    if not value > 0:
        raise argparse.ArgumentTypeError(f"{text!r}: must be positive")
    return value


if __name__ == "__main__":
    sys.exit(main())
