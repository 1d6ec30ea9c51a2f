"""`hne-train`: train a hierarchical ensemble, evaluate it at every size, export it for serving, reproduce the paper."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from model_core.errors import ModelError
from training.arguments import add_places, add_settings, chosen_settings, positive
from training.config import TrainConfig
from training.errors import RunError, TrainingError
from training.evaluation import Evaluation
from training.export import export_package
from training.lock import locked
from training.progress import LOG_FILE
from training.run import (
    EVALUATION_FILE,
    advise,
    begin,
    dataset_name,
    device_of,
    evaluate_run,
    fast_precision,
    open_data,
    reopen,
    spec_of,
)
from training.run_state import STATE_FILE, RunState
from training.signals import stop_signals
from training.studies.command import add_study
from training.trainer import RunOptions, Trainer

__all__ = ["main"]

VERIFIED_IMAGES = 32


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command. Returns the exit code: 0 done, 2 for input that cannot be used, 128 + n after signal n."""
    words = sys.argv[1:] if arguments is None else arguments
    parsed = _parser().parse_args(words)
    parsed.words = _recorded(words)
    command = parsed.command
    try:
        code: int = command(parsed)
        return code
    except (TrainingError, ModelError, OSError) as error:  # the last: a folder that cannot be written, a full disk
        print(f"hne-train: {error}", file=sys.stderr)
        return 2


def _recorded(words: Sequence[str]) -> str:
    """The command as records tell it: of a path from the root only the last name, for where it lies is nobody else's
    business."""

    def told(word: str) -> str:
        return Path(word).name if Path(word).is_absolute() else word

    def parts(word: str) -> str:
        flag, equals, value = word.partition("=")
        return f"{flag}={told(value)}" if equals and flag.startswith("--") else told(word)

    return shlex.join(["hne-train", *map(parts, words)])


def _train(parsed: argparse.Namespace) -> int:
    chosen = chosen_settings(parsed)
    out: Path = parsed.out
    if parsed.resume and not (out / STATE_FILE).exists():
        raise RunError(f"{out / STATE_FILE}: does not exist; leave --resume out to start a run")
    config = None if parsed.resume else _new_config(chosen)
    with locked(out):  # before the dataset is read, so that an impossible --out is noticed at once
        if config is None:
            state, device, data = reopen(RunState.load(out), chosen)
        elif (out / STATE_FILE).exists():
            raise RunError(f"{out} holds a run already: continue it with --resume, or choose another --out")
        else:
            device = device_of(config)
            data = open_data(config, spec_of(config), device)
            state = begin(config, data)
        with stop_signals() as received:
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


def _new_config(chosen: dict[str, Any]) -> TrainConfig:
    """The settings of a new run, checked as far as they can be without its data."""
    config = TrainConfig(**chosen).resolved()
    config.check_effects(chosen)
    spec_of(config)
    device = device_of(config)
    if "precision" not in chosen:
        config = replace(config, precision=fast_precision(device))
    advise(config, device)
    return config


def _evaluate(parsed: argparse.Namespace) -> int:
    folder: Path = parsed.run
    state, device, data = reopen(RunState.load(folder), chosen_settings(parsed))
    print(evaluate_run(folder, state, device, data, command=parsed.words))
    path = folder / EVALUATION_FILE
    print(f"wrote {path}, {path.with_suffix('.svg').name} and {path.with_suffix('.png').name}")
    return 0


def _export(parsed: argparse.Namespace) -> int:
    folder: Path = parsed.run
    evaluation = Evaluation.load(folder / EVALUATION_FILE)
    state = RunState.load(folder)
    if evaluation.run_sha256 != state.sha256:
        raise RunError(f"{folder}: trained further since it was evaluated; run `hne-train evaluate` again")
    state, _, data = reopen(state, chosen_settings(parsed))
    images, _ = next(iter(data.test.evaluation_batches(VERIFIED_IMAGES)))
    package = export_package(
        state.result().cpu(),
        parsed.out,
        name=parsed.name or state.model.spec.name.replace("_", "-"),
        version=parsed.version,
        class_names=state.data.class_names,
        preprocessing=state.data.preprocessing,
        table=evaluation.table,
        evaluated_on=evaluation.evaluated_on,
        training={**state.config.told(), "dataset": dataset_name(state.config), "epochs_trained": state.epochs},
        images=images.cpu().contiguous(),
        overwrite=parsed.overwrite,
    )
    print(f"wrote {package.root}: {package.manifest.name} {package.manifest.version}, sha256 {package.sha256[:12]}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="hne-train",
        description="Train a hierarchical neural ensemble, evaluate it at every ensemble size, export it for serving, "
        "reproduce the paper's tables and figures.",
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
    run.add_argument("--max-minutes", type=positive, help="stop after this time, saved")
    run.add_argument("--save-minutes", type=positive, default=5.0, help="longest time between saves (default: 5)")
    add_settings(train.add_argument_group("settings", "Defaults are the paper's (Appendix A) where it names any."))

    evaluation = commands.add_parser(
        "evaluate",
        help="measure every ensemble size on the test images",
        description=f"Measure every ensemble size: accuracy, likelihood, calibration, diversity, FLOPs. Writes "
        f"{EVALUATION_FILE} and a plot into the run's folder. Works at any moment of a training.",
    )
    evaluation.set_defaults(command=_evaluate)
    add_places(evaluation)

    export = commands.add_parser(
        "export",
        help="turn an evaluated run into a model package for hne-serve",
        description="Write a model package: weights, one ONNX graph per step, manifest, model card. Every graph is "
        "compared with PyTorch on real test images first.",
    )
    export.set_defaults(command=_export)
    add_places(export)
    export.add_argument("--out", type=Path, required=True, help="folder of the package")
    export.add_argument("--name", help="name of the model (default: its architecture's)")
    export.add_argument("--version", default="1", help="version of the model (default: 1)")
    export.add_argument("--overwrite", action="store_true", help="replace a package that is already there")

    add_study(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())
