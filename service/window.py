"""A quantile of the last so many values, kept up to date value by value."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque

__all__ = ["Window"]


class Window:
    """The `quantile` (0..1) of the last `length` values; `value` is `empty` before there is any."""

    def __init__(self, length: int, quantile: float, *, empty: float = 1.0) -> None:
        self._length, self._quantile = length, quantile
        self._recent: deque[float] = deque()
        self._ranked: list[float] = []
        self.value = empty

    @property
    def largest(self) -> float:
        """The largest of them, whatever the quantile; 0 before there is any."""
        return self._ranked[-1] if self._ranked else 0.0

    def add(self, value: float) -> None:
        """The newest value."""
        self._recent.append(value)
        insort(self._ranked, value)
        if len(self._recent) > self._length:
            del self._ranked[bisect_left(self._ranked, self._recent.popleft())]
        self.value = self._ranked[int(self._quantile * (len(self._ranked) - 1) + 0.5)]
