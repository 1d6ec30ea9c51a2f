"""Answers of an engine on virtual time: nobody hears them, and they say how deep they are, not what."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from service.errors import DeadlineMissedError
from service.ledger import Request
from service.request import Refinement, Ticket, Update

__all__ = ["MISSED", "NOTHING", "refinement", "unheard"]

NOTHING = np.empty(0, np.float32)
"""An image, or probabilities, that nobody looks at."""
MISSED = DeadlineMissedError()


def unheard(updates: Sequence[tuple[Ticket, Update]]) -> None:
    """A listener that does not listen: what is needed is read from the ledger."""


def refinement(request: Request, size: int, *, flops: Sequence[int], now: float, next_end: float) -> Refinement:
    """What a request that has reached an ensemble size is told at an instant; its next step would end at `next_end`.
    `flops` are those of ensemble sizes 0..N."""
    return Refinement(
        ensemble_size=size,
        flops=flops[size],
        probabilities=NOTHING,
        stop_reason=request.stop_reason(size, 0.0, next_end),
        started_at=request.started_at,
        first_at=now,
        at=now,
    )
