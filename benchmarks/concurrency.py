"""What batching across requests is worth: a closed loop of 1 client, then of 32, over HTTP.

    python -m benchmarks.concurrency --images cifar10/test

Closed loops show throughput, not latency under a given load: a client that waits offers less when the service is slow.
"""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from benchmarks.client import Client, arguments, labelled_images, percentile, run, write_report

BATCH = "hne_step_batch_size"


def step_batches(client: Client) -> tuple[float, float]:
    """Sum and count of the step batches so far."""
    lines = dict(line.rsplit(" ", 1) for line in client.get("/metrics").splitlines() if line[:1] != "#")
    return float(lines[f"{BATCH}_sum"]), float(lines[f"{BATCH}_count"])


def closed_loop(url: str, images: list[bytes], clients: int) -> dict[str, Any]:
    """All images by so many clients, each sending its next when it has its answer."""
    waiting = iter(images)
    connections = [Client(url) for _ in range(clients)]
    total, steps = step_batches(connections[0])
    started = time.perf_counter()
    with ThreadPoolExecutor(clients) as threads:
        loops = threads.map(lambda client: [client.predict(image) for image in waiting], connections)
        outcomes = [outcome for loop in loops for outcome in loop]
    seconds = time.perf_counter() - started
    total_after, steps_after = step_batches(connections[0])
    times = [outcome.milliseconds for outcome in outcomes]
    return {
        "clients": clients,
        "answered": sum(outcome.status == 200 for outcome in outcomes),
        "images/s": len(outcomes) / seconds,
        "mean step batch": (total_after - total) / (steps_after - steps),
        "p50 ms": percentile(times, 0.5),
        "p99 ms": percentile(times, 0.99),
    }


def main() -> None:
    """Run and report."""
    parser = arguments(__doc__, images=500, results="concurrency.json")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 32], help="sizes of the closed loop")
    parser.add_argument("--repeats", type=int, default=3, help="of the whole sequence")
    options = parser.parse_args()
    images = [image for _, image in labelled_images(options.images, options.count, options.seed)]
    card = Client(options.url).model_card()
    closed_loop(options.url, images[:100], 8)  # warm-up
    rows = [closed_loop(options.url, images, size) for _ in range(options.repeats) for size in options.clients]
    write_report(options.output, "concurrency", card, rows, images=options.count, seed=options.seed)


if __name__ == "__main__":
    run(main)
