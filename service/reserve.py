"""The reserve: how long before its deadline an answer has to be fixed, so that it is with its client in time.

Between the two lie a turn of the event loop, the encoding and the socket: a millisecond on an idle machine, many where
the processor is shared with the engine or with the clients. So it is measured: how long after the engine had no more to
say an answer was really out, over the last answers. What was slow under a load that is over tells nothing of the
present one, and is forgotten.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from math import inf

from service.window import Rate, Window

__all__ = ["Reserve"]

QUANTILE = 0.99
WINDOW = 256
"""Answers that it looks back on."""
SHARE = 0.25
"""Of a deadline that is kept back at most, beside the floor."""
FLOOR_SHARE = 0.125
"""Of a deadline that is kept back at most as the floor: a first leaf that may be late is worth more than none."""
REFINING = 4.0
"""Times the floor that is kept back of the time for refinements."""
AGE = 60.0
"""Seconds after which the longest of them, alone, tells nothing of the present: where few come, it lies far back."""
OVER = 2.0
"""A load is over when it was more than so many times the present one."""


class Reserve:
    """`floor` (seconds) is for what lies beyond the socket, which nobody here sees: kept back of all deadlines that are
    long enough."""

    def __init__(self, floor: float, clock: Callable[[], float]) -> None:
        self._floor = floor
        self._clock = clock
        self._ended = Rate(WINDOW)
        """The load, over as many requests as are looked back on: a pause shorter than they take is no calm."""
        self._lags = Window(WINDOW, QUANTILE, empty=0.0)
        self._added = 0
        self._longest: deque[tuple[float, int, float]] = deque()
        """Of the same answers those that no later one exceeds in lag: when it was out, its number and lag."""
        self._peaks: deque[tuple[float, int]] = deque()
        """Of the same answers those that no later one exceeds in load: it, and how many were added before."""
        for _ in range(WINDOW):  # the first answers after a start are slow, and are not to stand for all
            self._add(0.0)

    def refining(self, seconds: float = inf) -> float:
        """What refinements leave of a deadline so many seconds away: as much as any of the last answers took that is no
        older than `AGE`, and `REFINING` floors.

        A step more brings a fraction of a point of expected accuracy, an answer that comes late loses all of it. So a
        step pays only where the risk that it adds is below their ratio, which is less than one in `WINDOW`.
        """
        while self._longest and self._longest[0][0] < self._clock() - AGE:
            self._longest.popleft()
        longest = self._longest[0][2] if self._longest else 0.0
        return REFINING * self._floor_of(seconds) + max(longest, self._lags.value)

    def of(self, seconds: float) -> float:
        """What to keep back of a deadline so many seconds away, so that time is left for a first leaf at all."""
        return self._floor_of(seconds) + min(self._lags.value, SHARE * seconds)

    def ended(self, lag: float | None) -> None:
        """A request is over; its answer was out `lag` seconds after it was fixed, if that is known."""
        now = self._clock()
        self._ended.add(now)
        if lag is None:
            return
        load = self._ended.at(now)
        self._forget(OVER * load)
        while self._peaks and self._peaks[-1][0] <= load:
            self._peaks.pop()
        self._peaks.append((load, self._added))
        while self._longest and self._longest[-1][2] <= lag:
            self._longest.pop()
        self._longest.append((now, self._added, lag))
        self._add(lag)
        while self._longest[0][1] < self._added - WINDOW:
            self._longest.popleft()

    def _floor_of(self, seconds: float) -> float:
        return min(self._floor, FLOOR_SHARE * seconds)

    def _forget(self, load: float) -> None:
        """Forget all answers up to the last that came under a higher load."""
        first = oldest = self._added - WINDOW
        while self._peaks and (self._peaks[0][0] > load or self._peaks[0][1] < oldest):
            first = self._peaks.popleft()[1] + 1
        for _ in range(first - oldest):  # each makes the oldest leave
            self._add(0.0)

    def _add(self, lag: float) -> None:
        self._lags.add(lag)
        self._added += 1
