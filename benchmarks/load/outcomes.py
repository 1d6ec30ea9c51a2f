"""What came of a run's requests, and the figures that are drawn from them.

The headline is goodput: answers that are correct and on time, over the requests *offered*. Refusing cannot flatter it.
Latency counts from the intended send time, so a sender or a server that falls behind shows as latency.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from math import inf, nan
from statistics import mean
from typing import Any

from benchmarks.client import percentile

__all__ = ["ANSWERED", "LOST", "MISSED", "REFUSED", "Outcome", "summary", "time_series"]

ANSWERED, REFUSED, MISSED, LOST = 200, 503, 504, 0
"""Statuses, as HTTP has them; 0: no answer at all (connection broken, or given up waiting)."""

ROUNDING = 1e-9
"""Seconds by which the sum and the difference of instants may miss."""
LAG_SHARE = 0.1
"""A send is late if it is behind by more than this share of its deadline; `LAG_SECONDS` where it has none."""
LAG_SECONDS = 0.01
LAGGARDS = 0.01
"""A run in which more than this share of the sends were late says little of the server."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """One request. Instants are seconds from the start of the run."""

    intended: float
    sent: float
    answered: float
    """When the last byte of the answer was there; NaN if it never was."""
    deadline: float
    """Seconds from `intended`; infinity for none."""
    status: int
    first: float = nan
    """When the first prediction of a stream was there."""
    ensemble_size: int = 0
    flops: int = 0
    correct: bool = False
    cut: bool = False
    """The deadline ended it: a system without partial answers would have had none."""

    @property
    def latency(self) -> float:
        """From the intended send time to the answer."""
        return self.answered - self.intended

    @property
    def delivered(self) -> bool:
        """There is a prediction."""
        return self.status == ANSWERED

    @property
    def on_time(self) -> bool:
        """There is a prediction by the deadline."""
        return self.delivered and not self.overrun

    @property
    def overrun(self) -> float:
        """How much later than the deadline it was answered."""
        late = self.latency - self.deadline
        return late if late > ROUNDING else 0.0

    @property
    def good(self) -> bool:
        """A correct prediction by the deadline."""
        return self.correct and self.on_time


def summary(outcomes: Sequence[Outcome], seconds: float) -> dict[str, Any]:
    """The figures of a run that offered its requests over so many seconds. Shares are fractions, times milliseconds.

    Latencies and sizes are those of the delivered predictions; None where there are none. `valid` is false where the
    sender fell behind.
    """
    offered = len(outcomes)
    if not offered:
        raise ValueError("nothing was offered")
    delivered = [outcome for outcome in outcomes if outcome.delivered]
    statuses = Counter(outcome.status for outcome in outcomes)
    latencies = [outcome.latency for outcome in delivered]
    firsts = [outcome.first - outcome.intended for outcome in delivered if outcome.first == outcome.first]
    overruns = [outcome.overrun for outcome in delivered]
    lags = [outcome.sent - outcome.intended for outcome in outcomes]
    behind = sum(lag > _tolerable(outcome) for lag, outcome in zip(lags, outcomes, strict=True))
    return {
        "offered": offered,
        "offered/s": offered / seconds,
        "goodput": sum(outcome.good for outcome in outcomes) / offered,
        "whole goodput": sum(outcome.good and not outcome.cut for outcome in outcomes) / offered,
        "attainment": sum(outcome.on_time for outcome in outcomes) / offered,
        "delivered": len(delivered),
        "refused": statuses[REFUSED],
        "missed": statuses[MISSED],
        "lost": statuses[LOST],
        "failed": offered - sum(statuses[status] for status in (ANSWERED, REFUSED, MISSED, LOST)),
        "late": sum(overrun > 0 for overrun in overruns),
        "on time of delivered": sum(overrun == 0 for overrun in overruns) / len(delivered) if delivered else None,
        "right of delivered": mean(outcome.correct for outcome in delivered) if delivered else None,
        "p50 ms": _ms(latencies, 0.5),
        "p95 ms": _ms(latencies, 0.95),
        "p99 ms": _ms(latencies, 0.99),
        "first p50 ms": _ms(firsts, 0.5),
        "first p99 ms": _ms(firsts, 0.99),
        "overrun p99 ms": _ms(overruns, 0.99),
        "overrun p99.9 ms": _ms(overruns, 0.999),
        "overrun max ms": _ms(overruns, 1.0),
        "mean size": mean(outcome.ensemble_size for outcome in delivered) if delivered else 0.0,
        "sizes": dict(sorted(Counter(outcome.ensemble_size for outcome in delivered).items())),
        "mean flops": mean(outcome.flops for outcome in delivered) if delivered else 0.0,
        "lag p99 ms": _ms(lags, 0.99),
        "lag max ms": _ms(lags, 1.0),
        "valid": behind <= LAGGARDS * offered,
    }


def time_series(outcomes: Sequence[Outcome], seconds: float, *, width: float) -> list[dict[str, float | None]]:
    """The course of a run in bins of `width` seconds, by intended send time. None: nothing was offered or delivered."""
    bins: list[list[Outcome]] = [[] for _ in range(max(round(seconds / width), 1))]
    for outcome in outcomes:
        bins[min(int(outcome.intended / width), len(bins) - 1)].append(outcome)
    return [
        {
            "at": index * width,
            "offered/s": len(members) / width,
            "goodput": mean(outcome.good for outcome in members) if members else None,
            "attainment": mean(outcome.on_time for outcome in members) if members else None,
            "mean size": mean(sizes) if (sizes := [o.ensemble_size for o in members if o.delivered]) else None,
        }
        for index, members in enumerate(bins)
    ]


def _tolerable(outcome: Outcome) -> float:
    return LAG_SECONDS if outcome.deadline == inf else LAG_SHARE * outcome.deadline


def _ms(values: Sequence[float], fraction: float) -> float | None:
    return 1e3 * percentile(values, fraction) if values else None
