"""What a deadline or a FLOP budget buys: real labelled images, one at a time, over HTTP.

    python -m benchmarks.deadlines --images cifar10/test

For every deadline: who was answered, how deep, how late (at the client, against the deadline), how often right. Then
the same for the FLOPs of every ensemble size, whose answers must cost exactly what the model's table says, and over the
images that the model was evaluated on have exactly the accuracy it says.
"""

from __future__ import annotations

from statistics import mean
from typing import Any

from benchmarks.client import Client, Outcome, arguments, labelled_images, percentile, run, write_report

DEADLINES_MS = (2, 5, 10, 20, 50, 100, None)


def row(budget: str, limit: float | None, labels: list[str], outcomes: list[Outcome]) -> dict[str, Any]:
    """One budget's line. Late is counted for deadlines only."""
    answered = [outcome for outcome in outcomes if outcome.status == 200]
    right = sum(outcome.label == label for label, outcome in zip(labels, outcomes, strict=True))
    late = [outcome.milliseconds - limit for outcome in answered] if budget == "deadline_ms" and limit else [0.0]
    return {
        "budget": budget,
        "limit": limit if limit is not None else "none",
        "answered": len(answered),
        "504": sum(outcome.status == 504 for outcome in outcomes),
        "other": sum(outcome.status not in (200, 504) for outcome in outcomes),
        "mean size": mean(outcome.ensemble_size for outcome in answered) if answered else 0,
        "max flops": max((outcome.flops for outcome in answered), default=0),
        "right of all": right / len(outcomes),
        "right of answered": right / len(answered) if answered else 0.0,
        "p50 ms": percentile([outcome.milliseconds for outcome in outcomes], 0.5),
        "p99 ms": percentile([outcome.milliseconds for outcome in outcomes], 0.99),
        "late": sum(overrun > 0 for overrun in late),
        "max late ms": max([0.0, *late]),
    }


def main() -> None:
    """Run and report."""
    options = arguments(__doc__, images=200, results="deadlines.json").parse_args()
    images = labelled_images(options.images, options.count, options.seed)
    labels = [label for label, _ in images]
    client = Client(options.url)
    card = client.model_card()
    for _, image in images[:20]:  # warm-up
        client.predict(image)
    rows = []
    for deadline in DEADLINES_MS:
        limits = {} if deadline is None else {"deadline_ms": deadline}
        rows.append(row("deadline_ms", deadline, labels, [client.predict(image, **limits) for _, image in images]))
    for figures in card["table"]:
        outcomes = [client.predict(image, max_flops=figures["flops"]) for _, image in images]
        if wrong := sum(outcome.flops != figures["flops"] for outcome in outcomes):
            raise SystemExit(f"{wrong} answers did not cost the table's {figures['flops']} FLOPs")
        rows.append(row("max_flops", figures["flops"], labels, outcomes))
    write_report(options.output, "deadlines", card, rows, images=options.count, seed=options.seed, table=card["table"])


if __name__ == "__main__":
    run(main)
