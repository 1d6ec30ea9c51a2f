"""A burst of ten times the load: how the ensemble size gives way, and how soon it is back.

    python -m benchmarks.burst --images cifar10/test
    python -m benchmarks.burst --images cifar10/test --url http://127.0.0.1:8000

Back means: the mean size of a bin, by intended send time, is within one of the mean before the burst, and stays so on
average. A bin of one repeat holds few requests at a calm load, and strays; the row `all` takes those of all repeats
together. Without `--url` the engine runs in this process; see `benchmarks.load.inprocess`.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from statistics import mean
from typing import Any

from benchmarks.command import add_output, positive_float, positive_int, run
from benchmarks.labelled import labelled_images
from benchmarks.load.flags import add_system, check_policies, system_of
from benchmarks.load.local import Local
from benchmarks.load.outcomes import Outcome, summary, time_series
from benchmarks.load.plan import burst, draw_plan
from benchmarks.load.plot import draw_burst
from benchmarks.report import write_report

Bin = dict[str, float | None]
WARM_UP = 1.0
"""Seconds at the start that do not count."""
TOLERANCE = 1.0
"""Networks by which the mean size may differ from that before the burst."""


def seconds_until_back(series: Sequence[Bin], start: float, stop: float) -> float | None:
    """From the burst's end to the start of the first bin from which on the size is back; None if it never is.

    Raises:
        ValueError: nothing was delivered before the burst.
    """
    before = _sizes(series, WARM_UP, start)
    if not before:
        raise ValueError("nothing was delivered before the burst")
    for row in series:
        at = row["at"]
        assert at is not None
        rest = _sizes(series, at, float("inf"))
        if at >= stop and rest and row["mean size"] is not None:
            back = mean(before) - TOLERANCE
            if row["mean size"] >= back and mean(rest) >= back:
                return at - stop
    return None


def figures(outcomes: Sequence[Outcome], series: Sequence[Bin], start: float, stop: float) -> dict[str, Any]:
    """A row: before, during and after the burst."""
    row: dict[str, Any] = {}
    for name, first, last in (("before", WARM_UP, start), ("burst", start, stop), ("after", stop, float("inf"))):
        phase = [outcome for outcome in outcomes if first <= outcome.intended < last]
        whole = summary(phase, 1)
        row |= {f"{name} {figure}": whole[figure] for figure in ("goodput", "attainment", "mean size")}
    return row | {"seconds until back": seconds_until_back(series, start, stop), "valid": summary(outcomes, 1)["valid"]}


def main(argv: Sequence[str] | None = None) -> None:
    """Run and report."""
    options = _options(argv)
    images = labelled_images(options.images, options.count, options.seed)
    system = system_of(options, images)
    if isinstance(system, Local):
        check_policies([options.policy], system.manifest.table)
    else:
        options.policy = system.card["policy"]
    capacity, latency = system.capacity(options.calibration), system.full_latency(options.calibration)
    start = WARM_UP + options.before
    stop = start + options.burst
    low = options.rho * capacity
    rate = burst(low, options.factor * low, start=start, stop=stop, seconds=stop + options.after)
    rows: list[dict[str, Any]] = []
    courses, everyone = [], []
    for repeat in range(options.repeats):
        plan = draw_plan(rate, deadlines=[options.slack * latency], images=system.images, seed=[options.seed, repeat])
        outcomes = system.offer(plan, options.policy)
        courses.append(time_series(outcomes, plan.seconds, width=options.bin))
        rows.append({"repeat": repeat, **figures(outcomes, courses[-1], start, stop)})
        everyone += outcomes
    together = time_series(everyone, stop + options.after, width=options.bin)
    rows.append({"repeat": "all", **figures(everyone, together, start, stop)})
    how = {name: getattr(options, name) for name in ("rho", "factor", "slack", "policy", "bin", "seed", "url")}
    write_report(
        *(options.output, "burst", system.card, rows),
        **how,
        capacity=capacity,
        full_latency=latency,
        start=start,
        stop=stop,
        courses=courses,
    )
    draw_burst(courses, start, stop, options.output.with_suffix(".svg"))


def _sizes(series: Sequence[Bin], first: float, last: float) -> list[float]:
    sizes = (row["mean size"] for row in series if row["at"] is not None and first <= row["at"] < last)
    return [size for size in sizes if size is not None]


def _options(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_system(parser)
    parser.add_argument("--policy", default="anytime", help="of the engine in this process; a server has its own")
    parser.add_argument(
        "--rho", type=positive_float, default=0.4, help="before and after, over the full ensemble's capacity"
    )
    parser.add_argument("--factor", type=positive_float, default=10, help="of the burst")
    parser.add_argument("--slack", type=positive_float, default=3, help="deadline over the full ensemble's latency")
    parser.add_argument("--before", type=positive_float, default=4, help="seconds before the burst")
    parser.add_argument("--burst", type=positive_float, default=5, help="seconds that it lasts")
    parser.add_argument("--after", type=positive_float, default=5, help="seconds after it")
    parser.add_argument("--bin", type=positive_float, default=0.2, help="seconds of a point of the curves")
    parser.add_argument("--repeats", type=positive_int, default=3)
    add_output(parser, "burst.json")
    return parser.parse_args(argv)


if __name__ == "__main__":
    run(main)
