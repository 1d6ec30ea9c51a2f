"""The most that batches of first leaves can be worth, on a machine that runs one at a time and interrupts none."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from benchmarks.simulation.load import Load

__all__ = ["best_batches"]


def best_batches(load: Load, seconds: Sequence[float], *, worth: float, rent: float) -> float:
    """The maximum, over all schedules, of the sum over the batches of `worth` x b - `rent` x the batch's seconds.

    A batch of b takes `seconds[b]`, begins when all of its requests have arrived and ends before their deadlines.
    Exact where who arrives later is due later; otherwise nobody is taken to be due before an earlier arrival, which
    can only add.

    Then those served can be put in the order of arrival without loss. Who came between two of a batch and is in none
    may take the later one's place: it is due no earlier than the first and has come no later than the last. And of two
    batches the earlier may take the earlier requests. So each batch is a run of neighbours among those not left out
    before, and what matters of the past is who is next, when the machine is free and what has been earned: a dynamic
    programme over who is next, which keeps what nothing both earlier and richer beats.
    """
    # A batch may as well leave places empty.
    taken = np.minimum.accumulate(np.asarray(seconds[1:])[::-1])[::-1]
    earned = worth * np.arange(1, len(seconds)) - rent * taken
    arrivals, deadlines = load.arrivals, np.maximum.accumulate(load.deadlines)
    count = len(arrivals)
    free: list[list[NDArray[np.float64]]] = [[] for _ in range(count + 1)]
    score: list[list[NDArray[np.float64]]] = [[] for _ in range(count + 1)]
    free[0], score[0] = [np.zeros(1)], [np.zeros(1)]
    for first in range(count):
        frees, scores = _unbeaten(free[first], score[first], arrivals[first])
        free[first], score[first] = [], []
        free[first + 1].append(frees)
        score[first + 1].append(scores)
        most = min(len(taken), count - first)
        starts = np.maximum(frees, arrivals[first : first + most, None])  # (batches, states)
        ends = starts + taken[:most, None]
        for batch, (instants, fits) in enumerate(zip(ends, ends <= deadlines[first], strict=True), 1):
            if not fits.any():
                break
            free[first + batch].append(instants[fits])
            score[first + batch].append(scores[fits] + earned[batch - 1])
    return float(np.concatenate(score[count]).max())


def _unbeaten(
    free: Sequence[NDArray[np.float64]], score: Sequence[NDArray[np.float64]], begin: float
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Those that none beats which is free as early and has earned as much, in the order of both.

    Nothing begins before `begin`, so that the machine may as well be busy until then.
    """
    frees, scores = np.maximum(np.concatenate(free), begin), np.concatenate(score)
    order = np.lexsort((-scores, frees))
    frees, scores = frees[order], scores[order]
    best = np.maximum.accumulate(scores)
    kept = np.ones(len(scores), bool)
    kept[1:] = scores[1:] > best[:-1]
    return frees[kept], scores[kept]
