"""The slots: how many requests the engine refines at a time, and the sum of each one's logits so far.

A slot is a row: of the runner's activations, and of the logit sums here. No locks: the engine takes and frees slots
under its own lock, and reads and writes rows from its thread alone.
"""

from __future__ import annotations

import numpy as np

from service.runners.base import Array, Rows

__all__ = ["SlotPool"]


WINDOW = 64
"""Slots at least over which taking goes round."""


class SlotPool:
    """`capacity` slots for a model of so many classes.

    They are taken one after the other, round and round: requests that come one after the other, and so may share a
    batch later, are neighbours, and a batch of neighbours needs no copy. The round is twice as long as there are slots
    taken, not the whole pool, for the sake of the processor's caches and of what runners keep for a place.
    """

    def __init__(self, capacity: int, classes: int) -> None:
        self.capacity = capacity
        self._logit_sums = np.full((capacity, classes), 0, np.float32)
        self._taken = bytearray(capacity)  # 1: taken
        self._available = capacity
        self._next = 0

    @property
    def available(self) -> int:
        """Slots that can be taken."""
        return self._available

    @property
    def memory_bytes(self) -> int:
        """Memory that the logit sums take."""
        return self._logit_sums.nbytes

    def take(self) -> int:
        """A free slot, its logit sum zero. There must be one."""
        taken = self.capacity - self._available
        if not taken or self._next >= max(WINDOW, 2 * taken):
            self._next = 0
        slot = self._taken.find(0, self._next)
        if slot < 0:
            slot = self._taken.find(0)
        self._taken[slot] = 1
        self._available -= 1
        self._next = slot + 1
        self._logit_sums[slot] = 0
        return slot

    def free(self, slot: int) -> None:
        """Give a slot back."""
        assert self._taken[slot], f"slot {slot} is free already"
        self._taken[slot] = 0
        self._available += 1

    @np.errstate(over="ignore", invalid="ignore")
    def add_logits(self, rows: Rows, logits: Array) -> None:
        """Add leaves' logits (w, B, K)."""
        self._logit_sums[rows] += logits[0] if len(logits) == 1 else logits.sum(axis=0)

    @np.errstate(invalid="ignore")
    def probabilities(self, rows: Rows, size: int, temperature: float) -> Array:
        """softmax(y_n / T), (B, K), at ensemble size n; y_n is the mean of the n leaves' logits.

        NaN for logits that are not finite.
        """
        # In place, and by the functions that the methods call: of one image, what is called is all that takes time.
        values: Array = self._logit_sums[rows] / np.float32(size * temperature)
        values -= np.maximum.reduce(values, axis=-1, keepdims=True)
        np.exp(values, out=values)
        values /= np.add.reduce(values, axis=-1, keepdims=True)
        return values
