"""What a GPU takes for every ensemble size and batch, and what CUDA graphs and wide segments are worth on it.

    python -m benchmarks.gpu
    python -m benchmarks.gpu --device cpu --batches 1 8 --no-compile  # the same without one, to try it

The same command goes on where it was interrupted: every finished row is a line of the .jsonl beside the output. All of
it with images in and logits out, as the engine does it, through the runner that serves:

- wide: the whole ensemble of N networks as one segment;
- steps: one network after the other, which costs a launch and a copy of logits for each;
- eager: wide, but without CUDA graphs.

Beside it, at the largest batch, the model's grouped form, compiled by torch: what is hard to beat where everyone wants
all N networks. Takes turns, so that a machine's moods meet all of them.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from benchmarks.command import add_output, positive_int, run
from benchmarks.conditions import code, machine
from benchmarks.load.journal import Journal
from benchmarks.load.plot import draw_latency
from benchmarks.report import write_report
from model_core.checkpoint import load_checkpoint
from model_core.errors import ModelError
from model_core.folding import folded
from model_core.package import Package
from model_core.tree import Segment
from service.errors import ServiceError
from service.runners import Array
from service.runners.pytorch import PRECISIONS, PyTorchRunner
from service.settings import shipped_model

Work = Callable[[Array], Array]
"""From images (B, C, H, W) to their logits (N, B, K), in the machine's memory."""

LONG_ENOUGH = 0.05
"""Seconds that a turn of one way takes at least, so that the clock does not matter."""
WARM_UP = 3
COLUMNS = ("precision", "N", "batch", "wide ms", "steps ms", "eager ms", "grouped ms", "images/s", "of grouped")


def ways(package: Package, precision: str, options: argparse.Namespace) -> dict[int, dict[str, Work]]:
    """By ensemble size N the ways to compute it; the grouped form computes them all, for the largest batch."""
    most = max(options.batches)
    graphs, eager = (
        PyTorchRunner(package, device=options.device, precision=precision, max_batch=most, graphs=graphs)
        for graphs in (True, False)
    )
    for runner in (graphs, eager):
        runner.reserve(most)
    tree = package.manifest.spec.tree
    found: dict[int, dict[str, Work]] = {
        size: {
            "wide": _through(graphs, [Segment(0, size)]),
            "steps": _through(graphs, [Segment(leaf) for leaf in range(size)]),
            "eager": _through(eager, [Segment(0, size)]),
        }
        for size in tree.widths(0)
    }
    if options.compile:
        found[tree.leaves]["grouped"] = _grouped(package, precision, options.device, most)
    return found


def _through(runner: PyTorchRunner, route: Sequence[Segment]) -> Work:
    def work(images: Array) -> Array:
        rows = slice(0, len(images))
        logits = [runner.run(segment, rows, None if segment.start else images) for segment in route]
        return logits[0] if len(logits) == 1 else np.concatenate(logits)

    return work


def _grouped(package: Package, precision: str, device: str, batch: int) -> Work:
    """The images go to the device as those of the runner do."""
    model = folded(load_checkpoint(package.weights)[0]).to(device, PRECISIONS[precision])
    compiled = torch.compile(model.to(memory_format=torch.channels_last), dynamic=False)
    host = torch.zeros((batch, *package.manifest.spec.input_shape), pin_memory=device != "cpu")

    @torch.no_grad()
    def work(images: Array) -> Array:
        np.copyto(host.numpy(), images)
        x = host.to(device, non_blocking=True).to(PRECISIONS[precision]).contiguous(memory_format=torch.channels_last)
        logits: Array = compiled(x).float().cpu().numpy()
        return logits

    return work


def timed(contenders: dict[str, Work], images: Array, repeats: int) -> dict[str, float]:
    """Seconds of each way, medians of so many turns."""
    counts = {}
    for name, work in contenders.items():
        for _ in range(WARM_UP):
            work(images)
        started = time.perf_counter()
        work(images)
        counts[name] = max(1, round(LONG_ENOUGH / (time.perf_counter() - started)))
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    for _ in range(repeats):
        for name, work in contenders.items():
            started = time.perf_counter()
            for _ in range(counts[name]):
                work(images)
            seconds[name].append((time.perf_counter() - started) / counts[name])
    return {name: median(found) for name, found in seconds.items()}


def measure(package: Package, options: argparse.Namespace, journal: Journal) -> Iterator[dict[str, Any]]:
    """A row for each precision, ensemble size and batch; those in the journal are not measured again."""
    for precision in options.precisions:
        by_size: dict[int, dict[str, Work]] = {}
        for batch in options.batches:
            for size in package.manifest.spec.tree.widths(0):
                key = f"{precision}, batch {batch}, N = {size}"
                if key not in journal.cells:
                    by_size = by_size or ways(package, precision, options)
                    if not journal.cells:
                        journal.begin({})
                    contenders = dict(by_size[size])
                    if batch < max(options.batches):
                        contenders.pop("grouped", None)
                    journal.add(key, _row(package, contenders, precision, batch, size, options))
                    print(f"{key}: {journal.cells[key]['wide ms']:.3f} ms", flush=True)
                yield journal.cells[key]


def _row(
    package: Package,
    contenders: dict[str, Work],
    precision: str,
    batch: int,
    size: int,
    options: argparse.Namespace,
) -> dict[str, Any]:
    random = np.random.default_rng(options.seed)
    images = random.standard_normal((batch, *package.manifest.spec.input_shape), np.float32)
    seconds = timed(contenders, images, options.repeats)
    grouped = seconds.get("grouped")
    return {
        "precision": precision,
        "N": size,
        "batch": batch,
        **{f"{name} ms": 1e3 * seconds[name] for name in ("wide", "steps", "eager")},
        "grouped ms": None if grouped is None else 1e3 * grouped,
        "images/s": batch / seconds["wide"],
        "of grouped": None if grouped is None else grouped / seconds["wide"],
    }


def findings(rows: Sequence[dict[str, Any]]) -> list[str]:
    """What the rows say of elastic width, graphs and throughput, for each precision."""
    found = []
    for precision in dict.fromkeys(row["precision"] for row in rows):
        own = [row for row in rows if row["precision"] == precision]
        least, most = min(row["batch"] for row in own), max(row["batch"] for row in own)
        alone = [row for row in own if row["batch"] == least]
        one, full = alone[0], alone[-1]
        line = (
            f"{precision}, batch {least}: N = {full['N']} takes {full['wide ms'] / one['wide ms']:.2f} times N = 1, "
            f"{full['steps ms'] / full['wide ms']:.2f} times as long in steps, "
            f"{full['eager ms'] / full['wide ms']:.2f} times without graphs"
        )
        share = next(row["of grouped"] for row in own if (row["N"], row["batch"]) == (full["N"], most))
        found.append(line + (f"; batch {most}: {share:.2f} of the grouped form's images/s" if share else ""))
    return found


def main(argv: Sequence[str] | None = None) -> None:
    """Run and report."""
    options = _options(argv)
    try:
        package = Package.load(options.model or shipped_model())
        manifest = package.manifest
        card = {"name": manifest.name, "version": manifest.version, "sha256": package.sha256}
        on_gpu = options.device != "cpu"
        if on_gpu and not torch.cuda.is_available():
            raise SystemExit("PyTorch finds no GPU here; --device cpu tries the benchmark without one")
        device = torch.cuda.get_device_name(options.device) if on_gpu else "CPU, without graphs"
        how = {name: getattr(options, name) for name in ("repeats", "seed")}
        conditions = {
            **how,
            "model": package.sha256,
            "device": device,
            "most": max(options.batches),
            "grouped": options.compile,
            "machine": machine(),
            "code": code(),
        }
        journal = Journal(options.output.with_suffix(".jsonl"), conditions)
        rows = list(measure(package, options, journal))
    except (ModelError, ServiceError) as error:
        raise SystemExit(f"the model cannot be served: {error}") from error
    lines = findings(rows)
    write_report(
        options.output,
        "gpu",
        card | {"runner": f"pytorch-{options.device}"},
        rows,
        columns=COLUMNS,
        device=device,
        findings=lines,
        **how,
    )
    draw_latency(rows, device, options.output.with_suffix(".svg"))
    print(*lines, sep="\n")


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="package to measure; unset, the shipped one")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--precisions", choices=list(PRECISIONS), nargs="+", default=["float32", "bfloat16"])
    parser.add_argument("--batches", type=positive_int, nargs="+", default=[1, 8, 32, 128, 256])
    parser.add_argument("--repeats", type=positive_int, default=5, help="turns of each way")
    parser.add_argument("--no-compile", dest="compile", action="store_false", help="leave the grouped form out")
    parser.add_argument("--seed", type=int, default=0)
    add_output(parser, "gpu.json")
    return parser.parse_args(argv)


if __name__ == "__main__":
    run(main)
