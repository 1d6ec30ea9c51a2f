"""`hne-train study`: conducts a study and writes its table and figure."""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path
from typing import get_args

from model_core.errors import ModelError
from training.arguments import add_settings, chosen_settings, integers, positive
from training.errors import ConfigError, RunError, TrainingError
from training.lock import in_turn
from training.run import dataset_name
from training.signals import stop_signals
from training.studies.catalog import STUDIES, study_named
from training.studies.conduct import Conduct
from training.studies.figures import save_figure
from training.studies.fitting import fitted
from training.studies.published import Benchmark
from training.studies.record import load_record
from training.studies.study import FIXED, Protocol, Study
from training.studies.tables import as_json, as_markdown

__all__ = ["add_study"]

RUNS = "runs"


def add_study(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to the parser of `hne-train`."""
    listing = "\n".join(f"  {study.name:9} {study.title}: {study.about}" for study in STUDIES.values())
    parser = commands.add_parser(
        "study",
        help="reproduce a table or figure of the paper, or one of ours",
        description="Train and evaluate the runs that a table or figure needs, then write it. Stop at any time, with "
        "Ctrl-C or without; the same command continues. Studies share runs.\n\nstudies:\n" + listing,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(command=_study)
    parser.add_argument("name", metavar="NAME", help=f"one of {', '.join(STUDIES)}")
    work = parser.add_argument_group("the study")
    work.add_argument("--out", type=Path, default=Path("studies"), help="folder of runs and results (default: studies)")
    work.add_argument("--only-draw", action="store_true", help="train nothing: write what the stored records show")
    work.add_argument("--max-minutes", type=positive, help="stop after this time, saved")
    work.add_argument("--save-minutes", type=positive, default=5.0, help="longest time between saves (default: 5)")
    work.add_argument("--seeds", type=integers, default=(0,), help="a run for each of these seeds (default: 0)")
    work.add_argument(
        "--architectures", help="such as hne_small,hne (default: the study's); --architecture is the same"
    )
    work.add_argument("--architecture", dest="architectures", help=argparse.SUPPRESS)
    work.add_argument(
        "--compare",
        choices=get_args(Benchmark),
        help="whose published figures to set beside (default: the dataset's, if it is CIFAR)",
    )
    add_settings(
        parser.add_argument_group("settings", "Of all runs; what differs from the paper's is said in the captions."),
        without=FIXED,
    )


def _study(parsed: argparse.Namespace) -> int:
    study = study_named(parsed.name)
    changes = {name: value for name, value in chosen_settings(parsed).items() if name not in FIXED}
    dataset = changes.get("dataset", "cifar10")
    for name in sorted(study.decided & changes.keys()):
        raise ConfigError(f"--{name.replace('_', '-')}: the study {study.name} decides that by itself")
    if len(set(parsed.seeds)) < len(parsed.seeds):
        raise ConfigError(f"--seeds {','.join(map(str, parsed.seeds))}: a seed twice is one run, not two")
    protocol = Protocol(
        changes=changes,
        seeds=parsed.seeds,
        architectures=tuple(parsed.architectures.split(",")) if parsed.architectures else None,
        benchmark=parsed.compare or (dataset if dataset in get_args(Benchmark) else None),
    )
    place = parsed.out / (_slug(dataset_name(protocol.base)) or dataset)
    study = fitted(study, protocol)
    for (architecture, label), fault in study.left_out.items():
        print(f"hne-train: {study.name}: without {label} for {architecture}, which cannot be: {fault}", file=sys.stderr)
    runs = study.runs(protocol)
    received: list[int] = []
    failed: TrainingError | ModelError | None = None
    if not parsed.only_draw:
        with stop_signals() as received:
            conduct = Conduct(
                folder=place / RUNS,
                command=parsed.words,
                save_seconds=parsed.save_minutes * 60,
                max_seconds=None if parsed.max_minutes is None else parsed.max_minutes * 60,
                stop_requested=lambda: bool(received),
            )
            failed = conduct.finish(runs)
    _write(study, protocol, place)
    finished = sum(load_record(run, place / RUNS) is not None for run in runs)
    if parsed.only_draw and not finished:
        raise RunError(f"{place / RUNS}: no run of {study.name} is finished; leave --only-draw out to train them")
    if failed is not None:
        raise failed
    if finished < len(runs):
        print(f"{study.name}: {finished} of {len(runs)} runs are finished; the same command continues")
    return 128 + received[0] if received else 0


def _slug(name: str) -> str:
    """A folder's name from a dataset's: its letters and digits, of any script; "" where it has none."""
    return re.sub(r"[\W_]+", "-", name.lower()).strip("-")


def _write(study: Study, protocol: Protocol, place: Path) -> None:
    """Table and figure of what has been measured so far, if anything; of several processes in turn."""
    if not study.lines(protocol, place / RUNS):
        return
    with in_turn(place):
        lines = study.lines(protocol, place / RUNS)
        caption = _caption(study, protocol, place / RUNS)
        table = as_markdown(study, lines, protocol, caption=caption)
        path = place / f"{study.name}.md"
        path.write_text(table, encoding="utf-8")
        content = json.dumps(as_json(study, lines, protocol, caption=caption), indent=1)
        path.with_suffix(".json").write_text(content + "\n", encoding="utf-8")
        written = [path, path.with_suffix(".json")]
        if study.draw is not None:
            pictures = [path.with_suffix(".svg"), path.with_suffix(".png")]
            save_figure(study, lines, protocol, caption=caption, paths=pictures)
            written += pictures
    print(table)
    print(f"wrote {', '.join(map(str, written))}")


def _caption(study: Study, protocol: Protocol, folder: Path) -> str:
    """What the figures are of, and what differs from the paper."""
    runs = study.runs(protocol)
    finished = sum(load_record(run, folder) is not None for run in runs)
    words = [f"{study.title}, {dataset_name(protocol.base)}", f"seeds {', '.join(map(str, protocol.seeds))}"]
    words += protocol.deviations(study)
    if finished < len(runs):
        words.append(f"INCOMPLETE: {finished} of {len(runs)} runs")
    return "; ".join(words) + "."
