"""`hne-train`: train a hierarchical ensemble, evaluate it at every size, export it for serving."""

from __future__ import annotations

import argparse
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
from model_core.zoo import architecture
from training.config import TrainConfig, settings
from training.data import load_dataset
from training.errors import ConfigError, RunError, TrainingError
from training.memory import keep_freed_memory
from training.run_state import STATE_FILE, RunState
from training.trainer import RunOptions, Trainer, new_run

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command. Returns the exit code: 0 done, 2 for input that cannot be used, 128 + n after signal n."""
    parsed = _parser().parse_args(arguments)
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
    state: RunState | None = None
    if parsed.resume:
        state = RunState.load(out)
        config = state.config.resumed_with(chosen)
    else:
        if (out / STATE_FILE).exists():
            raise RunError(f"{out} holds a run already: continue it with --resume, or choose another --out")
        config = TrainConfig(**chosen).resolved()
    device = _device(config.device)
    if config.threads is not None:
        torch.set_num_threads(config.threads)
    if device.type == "cpu":
        keep_freed_memory()
    size = (state.model.spec if state else architecture(config.architecture)).input_shape[1:]
    data = load_dataset(config, size=size, device=device)
    if state is None:
        classes = len(data.class_names)
        spec = architecture(config.architecture, classes=classes, branching=config.branching)
        state = new_run(config, spec, data)
    with _stop_signals() as received:
        options = RunOptions(
            out=out,
            save_seconds=parsed.save_minutes * 60,
            max_seconds=None if parsed.max_minutes is None else parsed.max_minutes * 60,
            stop_requested=lambda: bool(received),
        )
        trainer = Trainer(replace(state, config=config), data, options, device)
        complete = trainer.train()
    if not complete:
        epoch, step, _ = trainer.position
        print(f"stopped in epoch {epoch + 1} after {step} steps; continue with: hne-train train --resume --out {out}")
    return 128 + received[0] if received else 0


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
    )
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    train = commands.add_parser(
        "train",
        help="train a model; can be stopped at any time and resumed",
        description="Train a model. Stop it with Ctrl-C at any time; --resume continues to the same weights.",
    )
    train.set_defaults(command=_train)
    run = train.add_argument_group("the run")
    run.add_argument("--out", type=Path, required=True, help="folder of the run: its state and log.csv")
    run.add_argument("--resume", action="store_true", help="continue the run in --out; its settings are remembered")
    run.add_argument("--max-minutes", type=_positive, help="stop after this time, saved")
    run.add_argument("--save-minutes", type=_positive, default=5.0, help="longest time between saves (default: 5)")
    _add_settings(train.add_argument_group("settings", "Defaults are the paper's (Appendix A)."))
    return parser


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
