"""What a service counts, as its metrics in Prometheus' text format tell it."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing

from prometheus_client.parser import text_string_to_metric_families

from benchmarks.client import Client

__all__ = ["Samples", "mean_between", "samples", "scraped"]

Samples = Mapping[tuple[str, str], float]
"""(name, upper bound of a bucket or "") to value."""


def samples(text: str) -> dict[tuple[str, str], float]:
    """The samples of an exposition, added up over all labels but a bucket's bound."""
    found: dict[tuple[str, str], float] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            key = sample.name, sample.labels.get("le", "")
            found[key] = found.get(key, 0.0) + sample.value
    return found


def scraped(url: str) -> dict[tuple[str, str], float]:
    """The samples of a running service.

    Raises:
        OSError, http.client.HTTPException: it does not answer.
        SystemExit: it answers with another status than 200.
    """
    with closing(Client(url)) as client:
        return samples(client.get("/metrics"))


def mean_between(before: Samples, after: Samples, name: str) -> float | None:
    """Mean of what came into a histogram between two expositions; None if nothing did."""
    total, count = (after[f"{name}_{part}", ""] - before[f"{name}_{part}", ""] for part in ("sum", "count"))
    return total / count if count else None
