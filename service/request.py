"""What a request may spend and what it gets back: plain data between the engine and whoever answers the client.

No torch, no asyncio, no clock: every instant is a number that the engine's clock gave (monotonic seconds).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from enum import IntEnum, StrEnum

import numpy as np
from numpy.typing import NDArray

from service.errors import BudgetError, ServiceError

__all__ = ["Budget", "Failure", "Priority", "Refinement", "StopReason", "Ticket", "Update"]


class StopReason(StrEnum):
    """Why a prediction is not refined any further."""

    COMPLETE = "complete"
    """Every leaf of the ensemble has been averaged."""
    DEADLINE = "deadline"
    """The next step could not end before the deadline."""
    FLOPS = "flops"
    """The next step would exceed `max_flops`."""
    ENSEMBLE_SIZE = "ensemble_size"
    """`max_ensemble_size` is reached."""
    POLICY = "policy"
    """The scheduling policy decides on this ensemble size: a baseline before anything ran; `anytime` where so many wait
    for a first leaf, or come, that there is no time for further ones; the service itself, where it is behind with
    replies."""
    CONFIDENCE = "confidence"
    """The calibrated top probability reached `min_confidence`; or, without one, 0.9 while others waited."""
    DRAIN = "drain"
    """The service shuts down."""
    ERROR = "error"
    """The next step failed; the prediction stands on the leaves before it."""


class Priority(IntEnum):
    """Who gets a first leaf, and a waiting place, before whom when there is not enough for all; the smallest first."""

    HIGH = 0
    NORMAL = 1
    LOW = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Budget:
    """What a request may spend; None leaves that budget open."""

    deadline: float | None = None
    """Instant (monotonic seconds) by which the answer is due."""
    refine_by: float | None = None
    """Instant by which the last refinement is to end, though the first step may take longer: what is later might reach
    the client late."""
    max_flops: int | None = None
    """Multiply-adds that may be spent on the image; exact, never exceeded."""
    max_ensemble_size: int | None = None
    """Leaves to average at most."""
    min_confidence: float | None = None
    """Calibrated top probability (0..1) that is enough to stop; 1 asks for everything, None stops at 0.9 while others
    wait."""
    priority: Priority = Priority.NORMAL
    refine: bool = True
    """Whether there is to be more than a first leaf."""
    every_size: bool = False
    """Whether a refinement of every ensemble size is wanted, though several leaves at once may be faster."""

    @property
    def step_by_step(self) -> bool:
        """Whether it has to be looked at after every leaf."""
        return self.every_size or (self.min_confidence is not None and self.min_confidence < 1)

    def size_limit(self, flops: Sequence[int]) -> tuple[int, StopReason]:
        """The ensemble size at which it must stop, and why; `flops` are those of ensemble sizes 0..N.

        Raises:
            BudgetError: it allows not even the first leaf, or is none.
        """
        limits = [(len(flops) - 1, StopReason.COMPLETE)]
        if self.max_ensemble_size is not None:
            limits.append((self.max_ensemble_size, StopReason.ENSEMBLE_SIZE))
        if self.max_flops is not None:
            limits.append((bisect_right(flops, self.max_flops) - 1, StopReason.FLOPS))
        if not self.refine:
            limits.append((1, StopReason.POLICY))
        size, reason = min(limits, key=lambda limit: limit[0])
        if size < 1 and reason is StopReason.FLOPS:
            raise BudgetError(f"max_flops is {self.max_flops}, but the first leaf takes {flops[1]}")
        if size < 1:
            raise BudgetError(f"max_ensemble_size must be at least 1, got {size}")
        if self.min_confidence is not None and not 0 < self.min_confidence <= 1:
            raise BudgetError(f"min_confidence must be above 0 and at most 1, got {self.min_confidence}")
        return size, reason


@dataclass(frozen=True, slots=True, eq=False)
class Ticket:
    """The engine's handle of one admitted request, for `Engine.cancel` and to tell updates apart."""

    number: int


@dataclass(slots=True, kw_only=True, eq=False)  # one per request and step: frozen, making it takes twice as long
class Refinement:
    """The prediction of the first `ensemble_size` leaves. Nobody changes one."""

    ensemble_size: int
    flops: int
    """Multiply-adds spent on this image so far."""
    probabilities: NDArray[np.float32]
    """(K,) calibrated: softmax(y_n / T_n), y_n the mean logits of the first n leaves."""
    stop_reason: StopReason | None
    """None: more may come. Anything else: this was the last."""
    started_at: float
    """When the first step began."""
    first_at: float
    """When the first leaf was done."""
    at: float
    """When this refinement was done."""
    ended_at: float | None = None
    """When it was known to be the last; None: more may come."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Failure:
    """The end of a request that never got a leaf."""

    error: ServiceError
    at: float


Update = Refinement | Failure
"""What a listener hears of a request: refinements, of which the last has a stop reason, or one failure."""
