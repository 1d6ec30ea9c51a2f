"""The clairvoyant bound: goodput that no scheduler of one machine can exceed on a given load.

What it bounds: the sum over the offered requests of the expected accuracy of their answers at their deadlines, for any
schedule of the machine's segments in batches, even one that knows all arrivals and deadlines beforehand, without
faults. (It knows the accuracy per ensemble size, not which image is right at which: single draws scatter around it.)

It is the lower of two, of which one forgets that a batch cannot be interrupted, and the other that a refinement's
cannot.

**Divisible work.** A request at ensemble size n has taken part in segments that lead from 0 to n. A segment that serves
a request in time lies inside its window [arrival, deadline], so it is no longer than that. Charge each of the b
requests of a batch 1/b of its seconds, at the best b among those whose batch is short enough: no request gets to n for
less than c(n), the cheapest route at these prices. So every schedule is also one of a relaxed problem: one processor,
divisible work, any preemption, request i gets work x_i in its window, worth g_i(x_i), where g_i is the least concave
function above (0, 0) and the points (c(n), accuracy(n)) of the sizes that the request could reach in its window if
every segment took what it does at its fastest batch size. Requests that could reach equally deep share c and g, for the
longest of their windows.

The relaxed problem is solved exactly. The work vectors that one processor can do form a polymatroid, so for separable
concave worth the greedy is optimal: for each slope that occurs, steepest first, cap every x_i where g_i gets flatter
than it and find the most work W in total, which earliest-deadline-first does. The bound is the sum over the slopes of
slope x (W here - W one slope before).

**Whole batches.** Where a machine gains from batches, who waits for a large one loses time that divisible work does not
lose. Here first leaves come in whole batches, each inside all its windows, and only what follows is divisible: x_i work
for request i beyond its share of the first batch, worth at most h(x_i), of which no more is left in total than the time
in which somebody is there, T, less the batches' own. For any price r of a second, the sum of h(x_i) is then at most
r (T - batches' seconds) + the sum over those served of max_x [h(x) - r x], so that the goodput is at most

    r T + max over schedules of first leaves of the sum over their batches of
          b max_n [accuracy(n) - r e(n)] - r seconds(b)

with e(n) the least work beyond the first batch that leads to size n. The maximum is found by `best_batches`. Any r >= 0
bounds; tried are h's slopes, steepest first, and 0.
"""

from __future__ import annotations

from collections.abc import Sequence
from heapq import heappop, heappush

import numpy as np
from numpy.typing import NDArray

from benchmarks.simulation.batches import best_batches
from benchmarks.simulation.load import Load
from benchmarks.simulation.machine import Machine
from model_core.tree import Segment

__all__ = ["best_goodput", "most_work"]

ROUNDING = 1e-9
"""An instant in float64 may be off by so much of a window; the bound gives it away."""


def best_goodput(machine: Machine, load: Load, accuracy: Sequence[float]) -> float:
    """An upper bound on correct and on time / offered; `accuracy[n]` at ensemble size n = 0..N, `accuracy[0]` = 0."""
    windows = (load.deadlines - load.arrivals) * (1 + ROUNDING)
    bound = _divisible(machine, load, accuracy, windows)
    if np.all(np.diff(load.deadlines) >= 0):  # elsewhere whole batches bound worse, and take long
        bound = min(bound, _whole_batches(machine, load, accuracy, windows))
    return bound


def _divisible(machine: Machine, load: Load, accuracy: Sequence[float], windows: NDArray[np.float64]) -> float:
    fastest = machine.least(lambda segment: min(machine.seconds[segment][1:]))
    quickest = np.minimum.accumulate(fastest[::-1])[::-1]
    deepest = np.searchsorted(quickest, windows, side="right") - 1  # sizes that a request can reach in its window
    pieces: dict[int, list[tuple[float, float]]] = {}
    for size in np.unique(deepest).tolist():
        prices = _prices(machine, float(windows[deepest == size].max()))
        pieces[size] = _hull(prices[: size + 1], accuracy)
    total, done = 0.0, 0.0
    caps = np.zeros(len(windows))
    for slope in sorted({slope for hull in pieces.values() for _, slope in hull}, reverse=True):
        for size, hull in pieces.items():
            caps[deepest == size] = max((end for end, own in hull if own >= slope), default=0.0)
        work = most_work(load, caps)
        total += slope * (work - done)
        done = work
    return total / len(windows)


def _whole_batches(machine: Machine, load: Load, accuracy: Sequence[float], windows: NDArray[np.float64]) -> float:
    loose = Load(arrivals=load.arrivals, deadlines=load.arrivals + windows)
    first = np.min([taken for segment, taken in machine.seconds.items() if segment.start == 0], axis=0)
    extra = _prices(machine, float(windows.max()), paid=first)
    reached = np.flatnonzero(np.isfinite(extra)).tolist()
    present = most_work(loose, windows)
    lowest = float("inf")
    for rent in (*(slope for _, slope in _hull(extra[1:], accuracy[1:])), 0.0):
        worth = max(accuracy[size] - rent * float(extra[size]) for size in reached)
        bound = rent * present + best_batches(loose, first.tolist(), worth=worth, rent=rent)
        if bound >= lowest:  # it is convex in the rent
            break
        lowest = bound
    return lowest / len(windows)


def most_work(load: Load, caps: NDArray[np.float64]) -> float:
    """The most seconds that one processor can work on these requests, each inside its window and up to its cap."""
    arrivals, deadlines = load.arrivals.tolist(), load.deadlines.tolist()
    pending: list[tuple[float, float]] = []  # deadline, work left
    now = done = 0.0
    for arrival, deadline, cap in zip([*arrivals, float("inf")], [*deadlines, 0.0], [*caps.tolist(), 0.0], strict=True):
        while pending and now < arrival:
            due, left = heappop(pending)
            seconds = min(left, due - now, arrival - now)
            if seconds > 0:
                now += seconds
                done += seconds
                if left > seconds:
                    heappush(pending, (due, left - seconds))
        now = max(now, arrival)
        heappush(pending, (deadline, cap))
    return done


def _prices(machine: Machine, longest: float, *, paid: NDArray[np.float64] | None = None) -> NDArray[np.float64]:
    """The least work (seconds) that takes a request to size 0..N, sharing batches of at most `longest` seconds.

    `paid`, by batch size, is what of a request's first batch is not counted.
    """
    nothing = np.zeros(machine.max_batch + 1)

    def shared(segment: Segment) -> float:
        less = nothing if paid is None or segment.start else paid
        seconds = enumerate(machine.seconds[segment])
        return min(((taken - less[b]) / b for b, taken in seconds if b and taken <= longest), default=float("inf"))

    return np.asarray(machine.least(shared))


def _hull(prices: NDArray[np.float64], accuracy: Sequence[float]) -> list[tuple[float, float]]:
    """The rising part of the least concave function above the points: where each piece ends, and its slope."""
    at = 0
    pieces: list[tuple[float, float]] = []
    while True:
        further = [n for n in range(len(prices)) if np.isfinite(prices[n]) and accuracy[n] > accuracy[at]]
        # Deeper never costs less than nothing: a size that is better and cheaper would already be on the hull.
        slopes = {n: (accuracy[n] - accuracy[at]) / (prices[n] - prices[at]) for n in further if prices[n] > prices[at]}
        if not slopes:
            return pieces
        best = max(slopes, key=lambda n: (slopes[n], prices[n]))
        pieces.append((float(prices[best]), float(slopes[best])))
        at = best
