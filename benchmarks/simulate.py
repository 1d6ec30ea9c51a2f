"""Scheduling policies under load, on virtual time: the engine's scheduler, ledger, profile and policies as they are.

    python -m benchmarks.simulate --machine gpu --slack 1.5 --faults 0.05
    python -m benchmarks.simulate --machine here --slack 1.5 --cv2 4  # with the seconds that segments take here

For every rate (rho: offered over what the machine can carry with the full ensemble) and policy: goodput (answers that
are correct and on time, over requests offered), attainment (answers on time, over requests offered), mean ensemble size
of the answers; and the clairvoyant bound of `benchmarks.simulation.bound`. All policies see the same arrivals.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from statistics import mean, median

import numpy as np
from numpy.typing import NDArray

from benchmarks.command import add_output, positive_float, positive_int, run, share
from benchmarks.conditions import code, machine
from benchmarks.load.flags import check_policies
from benchmarks.load.local import Local
from benchmarks.simulation.bound import best_goodput
from benchmarks.simulation.load import Load, gamma_load
from benchmarks.simulation.machine import PAPER_TREE, Faults, Machine, cpu_like, gpu_like, measured, paper_table
from benchmarks.simulation.plot import draw
from benchmarks.simulation.virtual import simulate
from model_core.errors import ModelError
from model_core.package import EnsembleFigures, Package
from model_core.tree import Tree
from service.policies import parse_policy
from service.settings import shipped_model
from service.state import EngineSettings

RHOS = (0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 4.0, 8.0)
POLICIES = (
    *("anytime", "fixed:1", "fixed:2", "fixed:4", "fixed:8", "fixed:16"),
    *("most_accurate_that_fits", "slackfit", "replan"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """Everything but the rate, the policy and the repeat."""

    machine: Machine
    table: tuple[EnsembleFigures, ...]
    correct: NDArray[np.bool_] | None
    """(images, N) whether an image is right at an ensemble size; None draws from the table."""
    slacks: tuple[float, ...]
    """Deadlines, as multiples of the full ensemble's latency."""
    cv2: float
    faults: Faults
    requests: int
    seed: int
    limits: EngineSettings

    def load(self, rho: float, repeat: int) -> Load:
        """The same for every policy."""
        return gamma_load(
            rate=rho * self.machine.full_capacity,
            count=self.requests,
            slacks=[slack * self.machine.full_latency for slack in self.slacks],
            cv2=self.cv2,
            random=self._random(rho, repeat, 0),
        )

    def result(self, policy: str, rho: float, repeat: int) -> dict[str, float]:
        """One policy on one load."""
        load = self.load(rho, repeat)
        started = time.process_time()
        run = simulate(
            self.machine,
            load,
            parse_policy(policy, self.table),
            flops=(0, *(row.flops for row in self.table)),
            limits=self.limits,
            faults=self.faults,
            random=self._random(rho, repeat, 1),
        )
        seconds = time.process_time() - started
        answered = run.sizes > 0
        return {
            "goodput": float(self._correct(run.sizes, self._random(rho, repeat, 2)).mean()),
            "expected": float(np.asarray(self.accuracy)[run.sizes].mean()),
            "attainment": float(answered.mean()),
            "mean_size": float(run.sizes[answered].mean()) if answered.any() else 0.0,
            "utilisation": run.busy / float(load.deadlines.max()),
            "batches": run.batches,
            "straggle": run.straggle,
            "cpu_seconds": seconds,
        }

    def bound(self, rho: float, repeat: int) -> dict[str, float]:
        """What no policy can exceed in `expected`."""
        return {"expected": best_goodput(self.machine, self.load(rho, repeat), self.accuracy)}

    @property
    def accuracy(self) -> tuple[float, ...]:
        """Of ensemble sizes 0..N."""
        if self.correct is not None:
            return (0.0, *self.correct.mean(axis=0).tolist())
        return (0.0, *(row.accuracy for row in self.table))

    def _correct(self, sizes: NDArray[np.int64], random: np.random.Generator) -> NDArray[np.bool_]:
        if self.correct is None:
            return random.random(len(sizes)) < np.asarray(self.accuracy)[sizes]
        images = random.integers(len(self.correct), size=len(sizes))
        return np.where(sizes > 0, self.correct[images, sizes - 1], False)

    def _random(self, rho: float, repeat: int, stream: int) -> np.random.Generator:
        return np.random.default_rng([self.seed, repeat, round(1000 * rho), stream])


def _task(setting: Setting, policy: str | None, rho: float, repeat: int) -> dict[str, float]:
    return setting.bound(rho, repeat) if policy is None else setting.result(policy, rho, repeat)


def simulate_all(
    setting: Setting, policies: Sequence[str], rhos: Sequence[float], *, repeats: int, jobs: int
) -> list[dict[str, object]]:
    """A row for every rate and policy: medians over the repeats, and the range of the goodput."""
    names = [None, *policies]
    tasks = list(product([setting], names, rhos, range(repeats)))
    with ProcessPoolExecutor(jobs) as pool:
        results = dict(
            zip(((name, rho, r) for _, name, rho, r in tasks), pool.map(_task, *zip(*tasks, strict=True)), strict=True)
        )
    rows: list[dict[str, object]] = []
    for rho, policy in product(rhos, policies):
        runs = [results[policy, rho, repeat] for repeat in range(repeats)]
        bounds = [results[None, rho, repeat]["expected"] for repeat in range(repeats)]
        rows.append(
            {
                "rho": rho,
                "policy": policy,
                **{name: median(run[name] for run in runs) for name in runs[0]},
                "goodput_range": [min(run["goodput"] for run in runs), max(run["goodput"] for run in runs)],
                "bound": median(bounds),
                "of_bound": mean(run["expected"] / bound for run, bound in zip(runs, bounds, strict=True)),
            }
        )
    return rows


def print_table(rows: Sequence[dict[str, object]]) -> None:
    """Goodput with its range, attainment and mean size, in Markdown."""
    print("| rho | policy | goodput % | range | of the bound % | attainment % | mean size |")
    print("|---:|---|---:|---|---:|---:|---:|")
    for row in rows:
        low, high = (100 * float(value) for value in row["goodput_range"])  # type: ignore[attr-defined]
        goodput, part, attained = (100 * row[name] for name in ("goodput", "of_bound", "attainment"))  # type: ignore[operator]
        print(
            f"| {row['rho']:g} | {row['policy']} | {goodput:.1f} | {low:.1f} to {high:.1f} | {part:.1f} "
            f"| {attained:.1f} | {row['mean_size']:.1f} |"
        )


def main(arguments: Sequence[str] | None = None) -> None:
    """Run and report."""
    options = _parser().parse_args(arguments)
    try:
        setting = _setting(options)
    except (OSError, ValueError, ModelError) as error:
        raise SystemExit(str(error)) from error
    check_policies(options.policies, setting.table)
    started = time.process_time()
    rows = simulate_all(setting, options.policies, options.rho, repeats=options.repeats, jobs=options.jobs)
    print_table(rows)
    spent = sum(float(row["cpu_seconds"]) for row in rows) * options.repeats  # type: ignore[arg-type, misc]
    simulated = len(rows) * options.repeats * options.requests
    print(f"{simulated} requests; {60 * simulated / max(spent, 1e-9):.0f} a minute of CPU")
    report = {
        "benchmark": "simulate",
        "settings": {name: value.name if isinstance(value, Path) else value for name, value in vars(options).items()},
        "machine": {
            "name": setting.machine.name,
            "full_latency": setting.machine.full_latency,
            "full_capacity": setting.machine.full_capacity,
            "max_batch": setting.machine.max_batch,
            **(setting.machine.measurements() if options.machine == "here" else {}),
        },
        "limits": asdict(setting.limits),
        "faults": asdict(setting.faults),
        "accuracy": setting.accuracy,
        "host": machine(),
        "code": code(),
        "cpu_seconds": spent + time.process_time() - started,
        "rows": rows,
    }
    options.output.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    picture = options.output.with_suffix(".png")
    draw(rows, picture, title=f"{setting.machine.name}, deadline {'/'.join(f'{slack:g}' for slack in options.slack)} x")
    print(f"written to {options.output} and {picture}")


def _setting(options: argparse.Namespace) -> Setting:
    tree, table = PAPER_TREE, paper_table()
    if options.machine == "here" and options.package is None:
        options.package = shipped_model()
    if options.package is not None:
        manifest = Package.load(options.package).manifest
        tree, table = manifest.spec.tree, manifest.table
    correct = None if options.correct is None else np.load(options.correct).astype(bool)
    if correct is not None and (correct.ndim != 2 or correct.shape[1] != tree.leaves):
        raise SystemExit(f"{options.correct}: expected (images, {tree.leaves}), got {correct.shape}")
    return Setting(
        machine=_machine(options, tree, (0, *(row.flops for row in table))),
        table=table,
        correct=correct,
        slacks=tuple(options.slack),
        cv2=options.cv2,
        faults=Faults(share=options.faults),
        requests=options.requests,
        seed=options.seed,
        limits=EngineSettings(max_active=options.max_active, max_waiting=options.max_waiting),
    )


def _machine(options: argparse.Namespace, tree: Tree, flops: Sequence[int]) -> Machine:
    match options.machine:
        case "cpu":
            return cpu_like(tree, flops, widths=options.widths)
        case "gpu":
            return gpu_like(tree, flops, widths=options.widths)
        case "here":
            local = Local(options.package, (), limits=EngineSettings())
            batches = range(1, local.max_batch + 1)
            seconds = {
                s: [0.0, *(local.profile.expected(s, batch) for batch in batches)] for s in local.runner.segments
            }
            return Machine(name=f"this machine, {local.runner.name}", tree=tree, seconds=seconds)
        case path:
            return measured(Path(path), tree)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parser.add_argument(
        "--machine",
        default="cpu",
        help="cpu, gpu, here (measured now, with the runner that would serve), or a JSON file of measurements",
    )
    parser.add_argument(
        "--package", type=Path, help="costs and accuracies of this one; else the paper's HNE, here the shipped one"
    )
    parser.add_argument("--correct", type=Path, help="a .npy (images, N) of what is right at which ensemble size")
    parser.add_argument("--policies", nargs="+", default=POLICIES, help="NAME, fixed:N, each also with @MARGIN")
    parser.add_argument(
        "--rho", nargs="+", type=positive_float, default=RHOS, help="offered over the full ensemble's capacity"
    )
    parser.add_argument(
        "--slack", nargs="+", type=positive_float, default=(3.0,), help="deadlines / full latency, drawn evenly"
    )
    parser.add_argument("--cv2", type=positive_float, default=1.0, help="squared variation of the gaps; 1 is Poisson")
    parser.add_argument("--faults", type=share, default=0.0, help="share of segments that take four times as long")
    parser.add_argument(
        "--widths", nargs="+", type=positive_int, help="leaves per segment that the machine offers; unset, all"
    )
    parser.add_argument("--requests", type=positive_int, default=20_000, help="per rate, policy and repeat")
    parser.add_argument("--repeats", type=positive_int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--max-active", type=positive_int, default=1024, help="slots")
    parser.add_argument("--max-waiting", type=positive_int, default=4096, help="places in the queue")
    parser.add_argument("--jobs", type=positive_int, default=1, help="processes")
    add_output(parser, "simulate.json")
    return parser


if __name__ == "__main__":
    run(main)
