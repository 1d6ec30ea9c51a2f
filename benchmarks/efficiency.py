"""What the engine costs beside the computation: leaves per second at saturation, and the time of a decision.

    python -m benchmarks.efficiency --images cifar10/test

Leaves: a closed loop keeps the engine saturated, without deadlines; then the runner alone runs the very same segments
with the same batch sizes in the same order, in a bare loop. The two take turns, for each largest batch.

Decisions: the policy on the real ledger and queues, 256 requests active at all times with mixed deadlines, on virtual
time and this machine's profile; see `benchmarks.simulation.decisions`.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Sequence
from statistics import mean, median
from typing import Any

import numpy as np

from benchmarks.client import percentile
from benchmarks.command import add_output, positive_float, positive_int, run
from benchmarks.labelled import labelled_images
from benchmarks.load.borrowed import Borrowed
from benchmarks.load.flags import add_local, check_policies, local_of
from benchmarks.load.inprocess import closed_loop
from benchmarks.load.local import Local
from benchmarks.load.wrapped import Wrapped
from benchmarks.report import print_table, write_report
from benchmarks.simulation.decisions import timed_decisions
from benchmarks.simulation.machine import gpu_like
from model_core.tree import Segment
from service.policies import parse_policy
from service.profile import Profile
from service.runners import Array
from service.runners.base import Rows, batch_of

ACTIVE = 256
"""Requests in the ledger while decisions are timed."""


class Witness(Wrapped):
    """A runner that remembers what it ran."""

    def __init__(self, runner: Borrowed) -> None:
        super().__init__(runner)
        self.runs: list[tuple[Segment, int, int | None]] = []
        """Segment, batch and the ensemble size at which the last of it stopped."""
        self.started = self.ended = 0.0

    def run(self, segment: Segment, rows: Rows, images: Array | None = None, *, until: int | None = None) -> Array:
        """See `Runner.run`."""
        self.started = self.started or time.perf_counter()
        logits = super().run(segment, rows, images, until=until)
        self.ended = time.perf_counter()
        self.runs.append((segment, batch_of(rows), until))
        return logits

    @property
    def leaves(self) -> int:
        """Leaf evaluations so far."""
        return sum(segment.width * batch for segment, batch, _ in self.runs)


def bare_seconds(local: Local, runs: Sequence[tuple[Segment, int, int | None]]) -> float:
    """What the runner takes for these, one after the other, in neighbouring slots: it has nothing to copy."""
    images = np.random.default_rng(0).standard_normal((local.max_batch, *local.manifest.spec.input_shape), np.float32)
    started = time.perf_counter()
    for segment, batch, until in runs:
        local.runner.run(segment, slice(0, batch), None if segment.start else images[:batch], until=until)
    return time.perf_counter() - started


def throughput(local: Local, policy: str, *, seconds: float, repeats: int) -> dict[str, Any]:
    """Leaves per second of the engine and of the bare loop: medians, and the median and range of their ratios."""
    served, bare, batches = [], [], []
    for _ in range(repeats):
        witness = Witness(local.runner)
        with local.engine(policy, witness) as engine:
            closed_loop(engine, local.pixels, 4 * local.max_batch, seconds)
        served.append(witness.leaves / (witness.ended - witness.started))
        bare.append(witness.leaves / bare_seconds(local, witness.runs))
        batches.append(mean(batch for _, batch, _ in witness.runs))
    ratios = [engine / loop for engine, loop in zip(served, bare, strict=True)]
    return {
        "largest batch": local.max_batch,
        "mean batch": median(batches),
        "engine, leaves/s": median(served),
        "bare loop, leaves/s": median(bare),
        "share": median(ratios),
        "least": min(ratios),
        "most": max(ratios),
    }


def decisions(
    name: str, profile: Profile, segments: Sequence[Segment], local: Local, max_batch: int, options: argparse.Namespace
) -> dict[str, Any]:
    """A row: microseconds of a decision, and of ending who can get no further then."""
    timed = timed_decisions(
        profile,
        segments,
        parse_policy(options.policy, local.manifest.table),
        flops=local.manifest.cumulative_flops,
        active=ACTIVE,
        max_batch=max_batch,
        count=options.decisions,
        seed=options.seed,
    )
    seconds = [decision.deciding for decision in timed]
    quantiles = {f"p{100 * fraction:g} us": 1e6 * percentile(seconds, fraction) for fraction in (0.5, 0.95, 0.99)}
    return {
        "profile": name,
        "active": ACTIVE,
        "decisions": len(timed),
        "mean us": 1e6 * mean(seconds),
        **quantiles,
        "ended": mean(decision.ended for decision in timed),
        "ending, mean us": 1e6 * mean(decision.ending for decision in timed),
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Run and report."""
    options = _options(argv)
    images = labelled_images(options.images, options.count, options.seed)
    rows = []
    for batch in options.batches:
        local = local_of(options, images, max_batch=batch)
        check_policies([options.policy], local.manifest.table)
        rows.append(throughput(local, options.policy, seconds=options.seconds, repeats=options.repeats))
    gpu = gpu_like(local.tree, local.manifest.cumulative_flops)
    timed = [
        decisions("measured here", local.profile, local.runner.segments, local, local.max_batch, options),
        decisions("like a GPU, wide segments", gpu.profile(), sorted(gpu.seconds), local, gpu.max_batch, options),
    ]
    print_table(timed)
    how = {name: getattr(options, name) for name in ("policy", "seconds", "repeats", "seed", "threads")}
    write_report(options.output, "efficiency", local.card, rows, decisions=timed, **how)


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_local(parser, images=256)
    parser.add_argument("--policy", default="anytime")
    parser.add_argument(
        "--batches", type=positive_int, nargs="+", default=[1, 8, 32], help="largest batches of the engine"
    )
    parser.add_argument("--seconds", type=positive_float, default=4, help="of each measurement of throughput")
    parser.add_argument("--repeats", type=positive_int, default=5, help="of each of them")
    parser.add_argument("--decisions", type=positive_int, default=4000, help="to be timed")
    add_output(parser, "efficiency.json")
    return parser.parse_args(argv)


if __name__ == "__main__":
    run(main)
