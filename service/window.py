"""What is known of the last so many: a quantile of their values, kept up to date value by value, what share of them
something is true of, what each cost, or their rate."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import deque

__all__ = ["MOMENT", "Each", "Rate", "Share", "Window"]

MOMENT = 1e-6
"""Seconds at least in which anything came, so that it has a rate."""


class Window:
    """The `quantile` (0..1) of the last `length` values; `value` is `empty` before there is any."""

    def __init__(self, length: int, quantile: float, *, empty: float = 1.0) -> None:
        self._length, self._quantile = length, quantile
        self._recent: deque[float] = deque()
        self._ranked: list[float] = []
        self.value = empty

    def add(self, value: float) -> None:
        """The newest value."""
        self._recent.append(value)
        insort(self._ranked, value)
        if len(self._recent) > self._length:
            del self._ranked[bisect_left(self._ranked, self._recent.popleft())]
        self.value = self._ranked[int(self._quantile * (len(self._ranked) - 1) + 0.5)]


class Share:
    """The share of the last `length` of which something is true; 0 before there is any."""

    def __init__(self, length: int) -> None:
        self._length = length
        self._recent: deque[bool] = deque()
        self._count = 0

    @property
    def value(self) -> float:
        """0..1."""
        return self._count / len(self._recent) if self._recent else 0.0

    def add(self, holds: bool) -> None:
        """Whether it is true of the newest."""
        self._recent.append(holds)
        self._count += holds
        if len(self._recent) > self._length:
            self._count -= self._recent.popleft()


class Each:
    """What one took on average, of the last `length` amounts that several took together; None before there is any."""

    def __init__(self, length: int) -> None:
        self._length = length
        self._recent: deque[tuple[float, int]] = deque()
        self._amount, self._count = 0.0, 0

    @property
    def value(self) -> float | None:
        """As much as one took."""
        return self._amount / self._count if self._count else None

    def add(self, amount: float, count: int) -> None:
        """`count` took this together, at least one."""
        self._recent.append((amount, count))
        self._amount += amount
        self._count += count
        if len(self._recent) > self._length:
            amount, count = self._recent.popleft()
            self._amount -= amount
            self._count -= count


class Rate:
    """How many per second the last `length` came."""

    def __init__(self, length: int) -> None:
        self._length = length
        self._instants: deque[float] = deque(maxlen=length)

    def add(self, now: float) -> None:
        """One comes."""
        self._instants.append(now)

    def at(self, now: float) -> float:
        """Per second; 0, which is unknown, until there have been `length`."""
        full = len(self._instants) == self._length
        return self._length / max(now - self._instants[0], MOMENT) if full else 0.0
