"""One open-loop run against a running server: a rate, a deadline, real labelled images.

    python -m benchmarks.openloop --images cifar10/test --rate 200 --deadline-ms 30
    python -m benchmarks.openloop --images cifar10/test --rate 50 --until 500 --cv2 4 --stream

Run it in its own process; see `benchmarks.load` for what it does.
"""

from __future__ import annotations

from contextlib import closing
from math import inf

from benchmarks.client import Client
from benchmarks.command import arguments, deadline, positive_float, positive_int, run
from benchmarks.labelled import check_labels, labelled_images
from benchmarks.load.dialects import Predict, PredictStream
from benchmarks.load.generator import offer
from benchmarks.load.outcomes import summary
from benchmarks.load.plan import constant, draw_plan, ramp
from benchmarks.report import write_report

COLUMNS = (
    *("offered/s", "goodput", "attainment", "mean size", "p50 ms", "p99 ms", "first p50 ms", "overrun p99.9 ms"),
    *("refused", "missed", "lost", "failed", "late", "lag p99 ms", "valid"),
)
"""What is printed; the file has all."""


def main() -> None:
    """Run and report."""
    parser = arguments(__doc__, images=1000, results="openloop.json")
    parser.add_argument("--rate", type=positive_float, default=100, help="requests per second")
    parser.add_argument("--until", type=positive_float, help="requests per second at the end; unset, the rate stays")
    parser.add_argument("--seconds", type=positive_float, default=10, help="how long requests are sent")
    parser.add_argument("--deadline-ms", type=deadline, nargs="+", default=[inf], help="several are drawn evenly")
    parser.add_argument("--cv2", type=positive_float, default=1, help="squared variation of the gaps; 1 is Poisson")
    parser.add_argument("--options", default="", help="further options of the query: max_ensemble_size=4")
    parser.add_argument("--stream", action="store_true", help="ask for streams")
    parser.add_argument("--repeats", type=positive_int, default=1, help="each with a seed of its own")
    options = parser.parse_args()
    images = labelled_images(options.images, options.count, options.seed)
    with closing(Client(options.url)) as client:
        card = client.model_card()
    check_labels(images, card["class_names"])
    dialect = (PredictStream if options.stream else Predict)(options=options.options)
    rate = constant(options.rate, options.seconds)
    if options.until is not None:
        rate = ramp(options.rate, options.until, options.seconds)
    rows = []
    for repeat in range(-1, options.repeats):  # the first warms up
        plan = draw_plan(
            constant(options.rate, 1) if repeat < 0 else rate,
            deadlines=[milliseconds / 1e3 for milliseconds in options.deadline_ms],
            images=len(images),
            seed=[options.seed, repeat + 1],
            cv2=options.cv2,
        )
        outcomes = offer(options.url, plan, images, dialect)
        if repeat >= 0:
            rows.append(summary(outcomes, plan.seconds))
    how = {name: getattr(options, name) for name in ("rate", "until", "seconds", "cv2", "options", "stream", "seed")}
    deadlines = [None if milliseconds == inf else milliseconds for milliseconds in options.deadline_ms]
    write_report(options.output, "openloop", card, rows, columns=COLUMNS, **how, deadlines_ms=deadlines)


if __name__ == "__main__":
    run(main)
