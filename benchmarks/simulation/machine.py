"""A simulated machine: how long every segment takes for every batch, and how often it takes longer."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any

import numpy as np

from model_core.package import EnsembleFigures
from model_core.tree import Segment, Tree
from service.policies.whole import cheapest_routes
from service.profile import Profile, Shape
from service.scheduler import batch_sizes, by_start

__all__ = ["PAPER_TREE", "Faults", "Machine", "cpu_like", "gpu_like", "measured", "paper_table"]

PAPER_TREE = Tree((1, 2, 2, 2, 2))

# Ruiz and Verbeek (2021): multiply-adds of HNE at N = 1, 2, 4, 8, 16 are 51, 66, 107, 202 and 402 million. Their
# differences give those of one node per block. CIFAR-100 accuracies at these sizes; between them by log2 of the size.
PAPER_NODE_FLOPS = tuple(1_000_000 * millions for millions in (2, 10, 13, 11, 15))
PAPER_ACCURACY = {1: 0.761, 2: 0.772, 4: 0.780, 8: 0.790, 16: 0.798}


def paper_table() -> tuple[EnsembleFigures, ...]:
    """Cost and CIFAR-100 accuracy of the paper's HNE at every ensemble size; what it leaves open is neutral."""
    steps = [sum(PAPER_NODE_FLOPS[PAPER_TREE.entry_block(leaf) :]) for leaf in range(PAPER_TREE.leaves)]
    sizes = PAPER_TREE.ensemble_sizes
    accuracy = np.interp(np.log2(sizes), np.log2(list(PAPER_ACCURACY)), list(PAPER_ACCURACY.values()))
    return tuple(
        EnsembleFigures(ensemble_size=size, flops=flops, accuracy=correct, nll=1, ece=0, temperature=1)
        for size, flops, correct in zip(sizes, accumulate(steps), accuracy, strict=True)
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Faults:
    """Some segments take longer, drawn independently for each: never less than the machine's own time."""

    share: float = 0.0
    """Of the segments."""
    factor: float = 4.0

    def factors(self, random: np.random.Generator, count: int) -> list[float]:
        """How many times longer each of the next segments takes."""
        return [self.factor if slow else 1.0 for slow in random.random(count) < self.share]


@dataclass(frozen=True, slots=True, kw_only=True)
class Machine:
    """Seconds by segment and batch size (index 0 is unused). Segments that are missing are not offered."""

    name: str
    tree: Tree
    seconds: Mapping[Segment, Sequence[float]]

    @property
    def max_batch(self) -> int:
        """The largest batch."""
        return len(self.seconds[Segment(0)]) - 1

    def route_seconds(self, batch: int) -> tuple[float, ...]:
        """The least seconds from nothing to ensemble size 0..N for a batch that is alone."""
        return self.least(lambda segment: self.seconds[segment][batch])

    def least(self, price: Callable[[Segment], float]) -> tuple[float, ...]:
        """The least price of segments that lead from nothing to ensemble size 0..N; infinity where none do."""
        leaves = self.tree.leaves
        return tuple(least for least, _ in cheapest_routes(by_start(self.seconds, leaves), price, 0, leaves))

    @property
    def full_latency(self) -> float:
        """Seconds of the full ensemble for one request alone."""
        return self.route_seconds(1)[-1]

    @property
    def full_capacity(self) -> float:
        """Requests per second with the full ensemble at the best batch size."""
        return max(batch / self.route_seconds(batch)[-1] for batch in range(1, self.max_batch + 1))

    def measurements(self) -> dict[str, Any]:
        """All of it in the form that `measured` reads."""
        return {
            "name": self.name,
            "segments": [
                {
                    "start": segment.start,
                    "width": segment.width,
                    "seconds": {str(batch): seconds[batch] for batch in range(1, len(seconds))},
                }
                for segment, seconds in sorted(self.seconds.items())
            ],
        }

    def profile(self) -> Profile:
        """What an engine would have measured at start-up."""
        timings: dict[Shape, dict[int, list[float]]] = {}
        for segment, seconds in self.seconds.items():
            shape = Shape(self.tree.entry_block(segment.start), segment.width)
            timings[shape] = {batch: [seconds[batch]] for batch in batch_sizes(self.max_batch)}
        return Profile(self.tree, timings, max_batch=self.max_batch)


def cpu_like(
    tree: Tree, flops: Sequence[int], *, max_batch: int = 32, rate: float = 20e9, widths: Sequence[int] | None = None
) -> Machine:
    """Time is FLOPs: nothing is gained by batches or by wide segments. `flops` are those of ensemble sizes 0..N."""
    return _machine("cpu", tree, lambda segment, batch: batch * _flops(flops, segment) / rate, max_batch, widths)


def gpu_like(
    tree: Tree,
    flops: Sequence[int],
    *,
    max_batch: int = 128,
    rate: float = 6e12,
    launch: float = 30e-6,
    widths: Sequence[int] | None = None,
) -> Machine:
    """A fixed cost for every block of the chain, however wide and however large the batch, and FLOPs at a rate."""

    def seconds(segment: Segment, batch: int) -> float:
        chain = tree.blocks - tree.entry_block(segment.start)
        return launch * chain + batch * _flops(flops, segment) / rate

    return _machine("gpu", tree, seconds, max_batch, widths)


def measured(path: Path, tree: Tree) -> Machine:
    """A machine from measurements: `{"name": ..., "segments": [{"start": 0, "width": 1, "seconds": {"1": 0.002}}]}`.

    Linear between the batch sizes; the largest that all segments have is the largest batch.

    Raises:
        ValueError: the file has another form, or lacks a step or batch 1.
    """
    try:
        report = json.loads(path.read_text(encoding="utf-8"))
        curves = {
            tree.segment(row["start"], row["width"]): {int(batch): float(s) for batch, s in row["seconds"].items()}
            for row in report["segments"]
        }
        name = str(report["name"])
    except (KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path}: not the form of a measured machine, see `measured`: {error!r}") from error
    missing = [leaf for leaf in range(tree.leaves) if 1 not in curves.get(Segment(leaf), {})]
    if missing or any(1 not in curve for curve in curves.values()):
        raise ValueError(f"{path}: every step and every segment needs seconds for batch 1; missing steps: {missing}")
    max_batch = min(max(curve) for curve in curves.values())
    batches = np.arange(max_batch + 1)
    seconds = {
        segment: np.interp(batches, sorted(curve), [curve[batch] for batch in sorted(curve)]).tolist()
        for segment, curve in curves.items()
    }
    return Machine(name=name, tree=tree, seconds=seconds)


def _machine(
    name: str, tree: Tree, seconds: Callable[[Segment, int], float], max_batch: int, widths: Sequence[int] | None
) -> Machine:
    table: dict[Segment, list[float]] = defaultdict(list)
    for segment in tree.segments():
        if widths is None or segment.width in widths:
            table[segment] = [seconds(segment, batch) for batch in range(max_batch + 1)]
    return Machine(name=name, tree=tree, seconds=dict(table))


def _flops(flops: Sequence[int], segment: Segment) -> int:
    return flops[segment.stop] - flops[segment.start]
