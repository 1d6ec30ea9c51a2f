"""The reserve: how long before its deadline an answer has to be fixed, so that it is with its client in time.

Between the two lie a turn of the event loop, the encoding and the socket: a millisecond on an idle machine, many where
the processor is shared with the engine or with the clients. So it is measured: how long after the engine had no more to
say an answer was really out, over the last answers.
"""

from __future__ import annotations

from service.window import Window

__all__ = ["Reserve"]

QUANTILE = 0.99
WINDOW = 256
"""Answers that it looks back on."""
SHARE = 0.25
"""Of a deadline that is kept back at most, beside the floor."""


class Reserve:
    """`floor` is kept back in any case (seconds): for what lies beyond the socket, which nobody here sees."""

    def __init__(self, floor: float) -> None:
        self._floor = floor
        self._lags = Window(WINDOW, QUANTILE, empty=0.0)
        for _ in range(WINDOW):  # the first answers after a start are slow, and are not to stand for all
            self._lags.add(0.0)

    @property
    def whole(self) -> float:
        """What to keep back of the time for refinements: as much as any of the last answers took, and twice the floor.

        A step more brings a fraction of a point of expected accuracy, an answer that comes late loses all of it. So a
        step pays only where the risk that it adds is below their ratio, which is less than one in `WINDOW`.
        """
        return 2 * self._floor + self._lags.largest

    def of(self, seconds: float) -> float:
        """What to keep back of a deadline so many seconds away, so that time is left for a first leaf at all."""
        return self._floor + min(self._lags.value, SHARE * seconds)

    def observe(self, lag: float) -> None:
        """An answer was out `lag` seconds after it was fixed."""
        self._lags.add(lag)
