"""What the service's own counts say of a stretch of time."""

import math

import pytest
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest

from benchmarks.exposition import mean_between, samples
from benchmarks.front import histogram, quantile


def test_a_quantile_is_that_of_what_came_in_between() -> None:
    registry = CollectorRegistry()
    gaps = Histogram("gap_seconds", "Gaps", ("kind",), buckets=(1, 2, 4), registry=registry)

    def observe(*values: float) -> dict[tuple[str, str], float]:
        for value in values:
            gaps.labels(kind="any").observe(value)
        return samples(generate_latest(registry).decode())

    before = observe(9.0)
    buckets = histogram(before, observe(0.5, 0.5, 1.5, 1.5, 3.0, 3.0, 3.0, 3.0), "gap_seconds")
    assert buckets == [(1, 2), (2, 4), (4, 8), (math.inf, 8)]
    assert [quantile(buckets, fraction) for fraction in (0.25, 0.5, 0.75, 1)] == [1, 2, 3, 4]
    nothing = samples(generate_latest(registry).decode())
    assert quantile(histogram(nothing, nothing, "gap_seconds"), 0.99) is None
    assert quantile(histogram(nothing, observe(9.0), "gap_seconds"), 0.99) == 4


def test_samples_are_told_apart_by_name_and_bound_and_added_up_over_other_labels() -> None:
    registry = CollectorRegistry()
    requests = Counter("requests", "Requests", ("endpoint", "outcome"), registry=registry)
    requests.labels(endpoint='say "}"', outcome="200 or so").inc(2)
    requests.labels(endpoint="/predict", outcome="ok").inc(3)
    sizes = Histogram("size", "Sizes", ("kind",), buckets=(1, 2.5), registry=registry)
    for kind, value in (("a", 1), ("b", 1), ("b", 2)):
        sizes.labels(kind=kind).observe(value)
    found = samples(generate_latest(registry).decode())
    assert found["requests_total", ""] == 5
    assert [found["size_bucket", bound] for bound in ("1.0", "2.5", "+Inf")] == [2, 3, 3]
    assert found["size_sum", ""] == 4


def test_a_mean_is_that_of_what_came_in_between() -> None:
    registry = CollectorRegistry()
    batches = Histogram("batch", "Batches", buckets=(1, 2), registry=registry)
    batches.observe(100)
    before = samples(generate_latest(registry).decode())
    assert mean_between(before, before, "batch") is None
    for value in (1, 2, 6):
        batches.observe(value)
    assert mean_between(before, samples(generate_latest(registry).decode()), "batch") == pytest.approx(3)
