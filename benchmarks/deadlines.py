"""What a deadline or a FLOP budget buys: real labelled images, one at a time, over HTTP.

    python -m benchmarks.deadlines --images cifar10/test

For every deadline: who was answered, how deep, how late (at the client, against the deadline), how often right. Then
the same for the FLOPs of every ensemble size, whose answers must cost exactly what the model's table says, and over the
images that the model was evaluated on have exactly the accuracy it says. It exits with 1, after the report, where an
answer costs something else or there is none.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from functools import partial
from statistics import mean
from typing import Any

from benchmarks.client import Answer, Client, percentile
from benchmarks.command import arguments, run
from benchmarks.labelled import check_labels, labelled_images
from benchmarks.report import write_report

DEADLINES_MS = (2, 5, 10, 20, 50, 100, None)


def row(budget: str, limit: float | None, labels: Sequence[str], answers: Sequence[Answer]) -> dict[str, Any]:
    """One budget's line. Late is counted for deadlines only."""
    answered = [answer for answer in answers if answer.status == 200]
    right = sum(answer.label == label for label, answer in zip(labels, answers, strict=True))
    late = [answer.milliseconds - limit for answer in answered] if budget == "deadline_ms" and limit else [0.0]
    return {
        "budget": budget,
        "limit": limit if limit is not None else "none",
        "answered": len(answered),
        "504": sum(answer.status == 504 for answer in answers),
        "other": sum(answer.status not in (200, 504) for answer in answers),
        "mean size": mean(answer.ensemble_size for answer in answered) if answered else 0,
        "max flops": max((answer.flops for answer in answered), default=0),
        "right of all": right / len(answers),
        "right of answered": right / len(answered) if answered else 0.0,
        "p50 ms": percentile([answer.milliseconds for answer in answers], 0.5),
        "p99 ms": percentile([answer.milliseconds for answer in answers], 0.99),
        "late": sum(overrun > 0 for overrun in late),
        "max late ms": max([0.0, *late]),
    }


def measure(
    client: Client, images: Sequence[tuple[str, bytes]], table: Sequence[dict[str, Any]]
) -> tuple[list[dict[str, Any]], list[str]]:
    """A line for every budget, and what was wrong. The images are class names with encoded images."""
    labels = [label for label, _ in images]
    predict = partial(client.predict, min_confidence=1)  # a budget is to be spent, however certain the answer is
    rows, faults = [], []
    for deadline in DEADLINES_MS:
        limits = {} if deadline is None else {"deadline_ms": deadline}
        rows.append(row("deadline_ms", deadline, labels, [predict(image, **limits) for _, image in images]))
    for figures in table:
        answers = [predict(image, max_flops=figures["flops"]) for _, image in images]
        rows.append(row("max_flops", figures["flops"], labels, answers))
        if missing := sum(answer.status != 200 for answer in answers):
            faults.append(f"{missing} of {len(answers)} have no answer for {figures['flops']} FLOPs")
        if wrong := sum(answer.status == 200 and answer.flops != figures["flops"] for answer in answers):
            faults.append(f"{wrong} of {len(answers)} answers did not cost the table's {figures['flops']} FLOPs")
    return rows, faults


def main(argv: Sequence[str] | None = None) -> None:
    """Run, report, and exit with 1 on a fault."""
    options = arguments(__doc__, images=200, results="deadlines.json").parse_args(argv)
    images = labelled_images(options.images, options.count, options.seed)
    with closing(Client(options.url)) as client:
        card = client.model_card()
        check_labels(images, card["class_names"])
        for _, image in images[:20]:  # warm-up
            client.predict(image)
        rows, faults = measure(client, images, card["table"])
    how = {"images": options.count, "seed": options.seed, "table": card["table"], "faults": faults}
    write_report(options.output, "deadlines", card, rows, **how)
    if faults:
        raise SystemExit("\n".join(faults))


if __name__ == "__main__":
    run(main)
