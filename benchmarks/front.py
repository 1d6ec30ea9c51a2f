"""What the front carries: requests per second in one process, and with API processes before an engine process.

    python -m benchmarks.front --images cifar10/test

It starts `hne-serve` by itself, once for every number of API processes (0: everything in one process), and loads it in
closed loops from processes of its own. At ensemble size 1 the engine has little to do and the front is the limit; at
the full size it is the other way round. Every request asks for as many networks, however certain it is before. The gap
is what the device stands idle between two steps although requests could run, as the service itself counts it
(`hne_step_gap_seconds`).

With `--api-cores 0.2` each API process may take a fifth of a core: then they are what lacks, also where clients and
engine share few cores with them, and one sees what more of them bring where there are more cores.

Closed loops show throughput, not latency under a given load: a client that waits offers less when the service is slow.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import ExitStack, closing
from itertools import cycle, islice, pairwise
from typing import Any

from benchmarks.client import Answer, Client, answer_figures
from benchmarks.command import arguments, positive_float, positive_int, run
from benchmarks.exposition import Samples, mean_between, scraped
from benchmarks.labelled import labelled_images
from benchmarks.load.quota import held_to
from benchmarks.report import write_report
from benchmarks.served import api_processes, served

GAP = "hne_step_gap_seconds"
BATCH = "hne_step_batch_size"


def histogram(before: Samples, after: Samples, name: str) -> list[tuple[float, float]]:
    """What came into a histogram between two expositions: (upper bound, how many up to it), ascending."""
    bounds = [bound for sample, bound in after if sample == f"{name}_bucket"]
    counts = [(float(bound), after[f"{name}_bucket", bound] - before[f"{name}_bucket", bound]) for bound in bounds]
    return sorted(counts)


def quantile(buckets: Sequence[tuple[float, float]], fraction: float) -> float | None:
    """The quantile as Prometheus estimates it: linear within a bucket. None if there is nothing; beyond the last bound
    it is that bound.
    """
    rank = fraction * buckets[-1][1]
    if not rank:
        return None
    for (low, below), (high, upto) in pairwise([(0.0, 0.0), *buckets]):
        if upto >= rank:
            return low if math.isinf(high) else low + (high - low) * (rank - below) / (upto - below)
    raise AssertionError("the last bucket holds all")


def closed_loops(url: str, images: Sequence[bytes], connections: int, seconds: float, size: int) -> list[Answer]:
    """So many connections, each sending its next image when it has its answer. Runs in a process of its own."""
    until = time.perf_counter() + seconds

    def loop(start: int) -> list[Answer]:
        answers = []
        with closing(Client(url)) as client:
            for image in islice(cycle(images), start, None):
                if time.perf_counter() >= until:
                    break
                answers.append(client.predict(image, max_ensemble_size=size, min_confidence=1))
        return answers

    with ThreadPoolExecutor(connections) as threads:
        return [answer for answers in threads.map(loop, range(connections)) for answer in answers]


def measure(
    url: str, images: Sequence[bytes], processes: int, connections: int, seconds: float, size: int
) -> dict[str, Any]:
    """One row: everything but what was started."""
    with ProcessPoolExecutor(processes) as clients:

        def load(seconds: float) -> list[Answer]:
            jobs = [
                clients.submit(closed_loops, url, images, connections, seconds, size) for _ in range(processes)
            ]  # at the same time
            return [answer for job in jobs for answer in job.result()]

        load(min(1.0, seconds))  # warm-up: processes, connections, caches
        before = scraped(url)
        started = time.perf_counter()
        answers = load(seconds)
        took = time.perf_counter() - started
        after = scraped(url)
    gaps = histogram(before, after, GAP)
    figures = answer_figures(answers)
    return {
        "requests/s": figures["answered"] / took,
        **figures,
        "mean step batch": mean_between(before, after, BATCH),
        "gaps": int(gaps[-1][1]),
        **{f"gap {name} ms": _ms(quantile(gaps, fraction)) for name, fraction in (("p50", 0.5), ("p99", 0.99))},
    }


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else 1e3 * seconds


def main() -> None:
    """Run and report."""
    parser = arguments(__doc__, images=200, results="front.json", url=False)
    parser.add_argument("--api-processes", type=int, nargs="+", default=[0, 1, 2], help="0: everything in one process")
    parser.add_argument(
        "--api-cores", type=positive_float, help="of a core for each API process, as 0.2 (Linux, as root)"
    )
    parser.add_argument("--sizes", type=positive_int, nargs="+", default=[1, 16], help="ensemble sizes to ask for")
    parser.add_argument("--client-processes", type=positive_int, default=2, help="processes that load the service")
    parser.add_argument("--connections", type=positive_int, default=32, help="connections of each of them")
    parser.add_argument("--seconds", type=positive_float, default=10.0, help="length of one measurement")
    parser.add_argument("--repeats", type=positive_int, default=3, help="of the whole sequence")
    parser.add_argument(
        "--flag",
        dest="flags",
        action="append",
        default=[],
        help="for hne-serve, as --flag=--threads=1",
    )
    options = parser.parse_args()
    if options.api_cores is not None and 0 in options.api_processes:
        parser.error("argument --api-cores: the one process of --api-processes 0 computes as well")
    images = [image for _, image in labelled_images(options.images, options.count, options.seed)]
    rows = []
    for _ in range(options.repeats):
        for count in options.api_processes:
            with ExitStack() as stack:
                url, server = stack.enter_context(served(None, "--api-processes", str(count), *options.flags))
                if options.api_cores is not None:
                    stack.enter_context(held_to(options.api_cores, api_processes(server.pid)))
                with closing(Client(url)) as client:
                    card = client.model_card()
                for size in options.sizes:
                    row = measure(url, images, options.client_processes, options.connections, options.seconds, size)
                    rows.append({"API processes": count or "none", "size": size, **row})
    how = {name: value for name, value in vars(options).items() if name not in ("images", "output")}
    write_report(options.output, "front", card, rows, cores=os.cpu_count(), options=how)


if __name__ == "__main__":
    run(main)
