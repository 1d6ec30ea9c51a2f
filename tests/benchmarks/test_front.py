import math

import pytest
from prometheus_client import CollectorRegistry, Histogram, generate_latest

from benchmarks.front import histogram, quantile, samples


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
    assert math.isnan(quantile(histogram(nothing, nothing, "gap_seconds"), 0.99))
    assert quantile(histogram(nothing, observe(9.0), "gap_seconds"), 0.99) == 4


def test_samples_are_told_apart_by_name_and_bound() -> None:
    found = samples('# TYPE a counter\na_total 2.0\nb{le="0.1"} 1.0\nc{x="y"} 5.0\nd{x="y",le="+Inf"} 3.0\n')
    assert found[("a_total", "")] == 2
    assert found[("b", "0.1")] == 1
    assert found[("d", "+Inf")] == pytest.approx(3)
