"""What batching across requests is worth: a closed loop of 1 client, then of 32, over HTTP.

    python -m benchmarks.concurrency --images cifar10/test

Every request asks for the full ensemble: without a confidence, the service would stop who is certain while others wait,
and more clients would get smaller ensembles. Closed loops show throughput, not latency under a given load: a client
that waits offers less when the service is slow.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from typing import Any

from benchmarks.client import Client, answer_figures
from benchmarks.command import arguments, positive_int, run
from benchmarks.exposition import mean_between, scraped
from benchmarks.labelled import labelled_images
from benchmarks.report import write_report

BATCH = "hne_step_batch_size"


def closed_loop(url: str, images: Sequence[bytes], clients: int) -> dict[str, Any]:
    """All images by so many clients, each sending its next when it has its answer."""
    waiting = iter(images)
    before = scraped(url)
    with ExitStack() as stack:
        connections = [stack.enter_context(closing(Client(url))) for _ in range(clients)]
        threads = stack.enter_context(ThreadPoolExecutor(clients))
        started = time.perf_counter()
        loops = threads.map(lambda client: [client.predict(image, min_confidence=1) for image in waiting], connections)
        answers = [answer for loop in loops for answer in loop]
        seconds = time.perf_counter() - started
    figures = answer_figures(answers)
    return {
        "clients": clients,
        "images/s": figures["answered"] / seconds,
        **figures,
        "mean step batch": mean_between(before, scraped(url), BATCH),
    }


def main(argv: Sequence[str] | None = None) -> None:
    """Run and report."""
    parser = arguments(__doc__, images=500, results="concurrency.json")
    parser.add_argument("--clients", type=positive_int, nargs="+", default=[1, 32], help="sizes of the closed loop")
    parser.add_argument("--repeats", type=positive_int, default=3, help="of the whole sequence")
    options = parser.parse_args(argv)
    images = [image for _, image in labelled_images(options.images, options.count, options.seed)]
    with closing(Client(options.url)) as client:
        card = client.model_card()
    closed_loop(options.url, images[:100], 8)  # warm-up
    rows = [closed_loop(options.url, images, size) for _ in range(options.repeats) for size in options.clients]
    write_report(options.output, "concurrency", card, rows, images=options.count, seed=options.seed)


if __name__ == "__main__":
    run(main)
