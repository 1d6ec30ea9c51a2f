"""Goodput under load, policy by policy: open loop, real labelled images, up to eight times what the full ensemble can
carry.

    python -m benchmarks.overload --images cifar10/test --quick      # a first look
    python -m benchmarks.overload --images cifar10/test              # every policy; hours
    python -m benchmarks.overload --images cifar10/test --url http://127.0.0.1:8000 --policies anytime

First what the full ensemble can carry (closed loop, best batch) and what it takes alone: rates (rho) and deadlines are
multiples of these. Then a run for every arrival process, deadline, fault rate, rate, policy and repeat; all policies
see the same arrivals, but for `replan`, which is warmed up for longer, unless `--warm-up` is as long for all. Each
baseline gets, by arrival process, deadline and fault rate, the safety margin that served it best in a pilot of its own.

Without `--url` the engine runs in this process; `benchmarks.load.inprocess` says what that leaves out. Interrupted, the
same command goes on where it stopped: every finished run is a line of the .jsonl beside the output.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from dataclasses import asdict
from typing import Any

from benchmarks.command import add_output, not_negative, positive_float, positive_int, run, share
from benchmarks.conditions import code, machine
from benchmarks.labelled import labelled_images
from benchmarks.load.flags import add_system, check_policies, system_of
from benchmarks.load.grid import Cell, Grid
from benchmarks.load.journal import Journal
from benchmarks.load.local import Local
from benchmarks.load.outcomes import summary
from benchmarks.load.plan import constant, draw_plan
from benchmarks.load.plot import draw_overload
from benchmarks.load.system import System
from benchmarks.load.table import comparison, rows
from benchmarks.report import print_table, write_report

BASELINES = (
    *("fixed:1", "fixed:2", "fixed:4", "fixed:8", "fixed:16"),
    *("most_accurate_that_fits", "slackfit", "replan"),
)
FULL: dict[str, Any] = {
    "rhos": [0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 4.0, 8.0],
    "cv2s": [1.0, 4.0],
    "slacks": [1.5, 3.0],
    "faults": [0.0, 0.05],
    "policies": ["anytime", *BASELINES],
    "margins": [1.0, 1.5, 2.5],
    "seconds": 4.0,
    "repeats": 3,
}
QUICK: dict[str, Any] = FULL | {
    "rhos": [0.5, 1.0, 2.0, 4.0],
    "cv2s": [1.0],
    "policies": ["anytime", "fixed:1", "fixed:16", "most_accurate_that_fits", "slackfit"],
    "margins": [],
    "seconds": 2.0,
    "repeats": 1,
}
COLUMNS = (
    *("cv2", "slack", "faults", "rho", "policy", "margin", "goodput", "goodput low", "goodput high", "whole goodput"),
    *("attainment", "mean size", "p99 ms", "on time of delivered", "overrun p99.9 ms", "lag p99 ms", "valid"),
)


def measure(system: System, grid: Grid, cell: Cell, facts: dict[str, float]) -> dict[str, Any]:
    """Run a cell. What arrives before its warm-up is over does not count."""
    warm_up = grid.warm_up_of(cell)
    plan = draw_plan(
        constant(cell.rho * facts["capacity"], warm_up + grid.seconds),
        deadlines=[cell.setting.slack * facts["full_latency"]],
        images=system.images,
        seed=[grid.seed, *cell.seed],
        cv2=cell.setting.cv2,
    )
    outcomes = system.offer(plan, cell.named, faults=cell.setting.faults, seed=[grid.seed, *cell.seed, 1])
    counted = [outcome for outcome in outcomes if outcome.intended >= warm_up]
    if not counted:
        raise SystemExit(
            f"no request fell into the {grid.seconds:g} s of a run at rho {cell.rho:g}: take more --seconds"
        )
    return summary(counted, grid.seconds)


def measure_all(system: System, grid: Grid, cells: Iterable[Cell], journal: Journal) -> None:
    """Measure what the journal lacks."""
    left = [cell for cell in cells if cell.key not in journal.cells]
    seconds = sum(grid.warm_up_of(cell) + grid.seconds for cell in left)
    print(f"{len(left)} runs to go, {seconds / 60:.0f} minutes or some more", flush=True)
    for number, cell in enumerate(left, 1):
        figures = measure(system, grid, cell, journal.facts)
        journal.add(cell.key, figures)
        print(f"{number}/{len(left)}  {cell.key}: goodput {figures['goodput']:.3f}", flush=True)


def benchmark(system: System, grid: Grid, journal: Journal, *, calibration: float) -> list[dict[str, Any]]:
    """Everything, from where the journal stops; the rows of the table."""
    if not journal.facts:
        journal.begin({"capacity": system.capacity(calibration), "full_latency": system.full_latency(calibration)})
    print(f"{journal.facts['capacity']:.0f} full ensembles/s; one takes {1e3 * journal.facts['full_latency']:.1f} ms")
    measure_all(system, grid, grid.pilots(), journal)
    margins = grid.best_margins({key: figures["goodput"] for key, figures in journal.cells.items()})
    cells = list(grid.cells(margins))
    measure_all(system, grid, cells, journal)
    return rows(cells, journal.cells)


def main(argv: Sequence[str] | None = None) -> None:
    """Run and report."""
    options = _options(argv)
    grid = Grid(**{name: getattr(options, name) for name in (*FULL, "pilot_rhos", "warm_up", "seed")})
    images = labelled_images(options.images, options.count, options.seed)
    system = system_of(options, images)
    if isinstance(system, Local):
        check_policies([*grid.policies, *(cell.named for cell in grid.pilots())], system.manifest.table)
    elif grid.policies != [system.card["policy"]]:
        raise SystemExit(f"the server's policy is {system.card['policy']}: name that one")
    settings = {
        **asdict(grid),
        "images": f"{options.count} of {options.images.absolute().parent.name}/{options.images.name}",
        "max_batch": options.max_batch,
        "model": system.card["sha256"],
        "runner": system.card["runner"],
        "threads": options.threads,
        "machine": machine(),
        "code": code(),
        "url": options.url,
    }
    journal = Journal(options.output.with_suffix(".jsonl"), settings)
    table = benchmark(system, grid, journal, calibration=options.calibration)
    against = comparison(table)
    write_report(
        *(options.output, "overload", system.card, table),
        columns=COLUMNS,
        settings=settings,
        **journal.facts,
        comparison=against,
    )
    if against:
        print_table(against)
    for slack in grid.slacks:
        own = [row for row in table if row["slack"] == slack]
        draw_overload(own, options.output.with_name(f"{options.output.stem}-{slack:g}x.svg"))


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_system(parser)
    parser.add_argument("--rhos", type=positive_float, nargs="+", help="offered over the full ensemble's capacity")
    parser.add_argument("--cv2s", type=positive_float, nargs="+", help="squared variation of the gaps; 1 is Poisson")
    parser.add_argument("--slacks", type=positive_float, nargs="+", help="deadlines over the full ensemble's latency")
    parser.add_argument("--faults", type=share, nargs="+", help="share of the steps that are slowed four times")
    parser.add_argument("--policies", nargs="+", help="names as hne-serve takes them")
    parser.add_argument(
        "--margins", type=positive_float, nargs="*", help="from which each baseline gets its best; none: 1"
    )
    parser.add_argument(
        "--pilot-rhos", type=positive_float, nargs="+", default=[0.8, 2.0], help="at which that is found out"
    )
    parser.add_argument("--seconds", type=positive_float, help="that count, of each run")
    parser.add_argument(
        "--warm-up", type=not_negative, default=1.0, help="seconds of load before them; replan has 10.5"
    )
    parser.add_argument("--repeats", type=positive_int, help="of everything")
    parser.add_argument("--quick", action="store_true", help="fewer of everything that is not named")
    add_output(parser, "overload.json")
    options = parser.parse_args(argv)
    unset = {"policies": ["anytime"], "faults": [0.0], "margins": []} if options.url else {}
    for name, value in ((QUICK if options.quick else FULL) | unset).items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    if options.url and (len(options.policies) > 1 or options.faults != [0.0] or options.margins):
        parser.error("a running server has one policy and takes no faults: name one policy, no faults, no margins")
    return options


if __name__ == "__main__":
    run(main)
