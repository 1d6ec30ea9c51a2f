"""In process: load on an engine in this process, for loads at which HTTP on few cores would be the limit.

The engine has its own thread, as in the service; the calling thread submits normalised images at their intended times.
An answer is what the engine has told by the request's deadline, at the instant it told, or at the deadline if it would
have gone on. So this leaves out HTTP, decoding, the event loop and how exact its timers are, and adds that sender and
engine share Python's lock.
"""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Sequence
from math import inf, nan

from benchmarks.load.outcomes import ANSWERED, LOST, MISSED, REFUSED, Outcome
from benchmarks.load.plan import Plan
from benchmarks.load.punctual import punctual
from benchmarks.load.uncollected import uncollected
from service.engine import Engine
from service.errors import QueueFullError
from service.request import Budget, Refinement, StopReason, Ticket, Update
from service.runners import Array

__all__ = ["answer_by", "closed_loop", "offer_to"]

LEAD = 0.01
"""Seconds before the plan starts."""
PATIENCE = 10.0
"""Seconds that the engine has to end everyone after the last deadline."""

Heard = tuple[float, Update]


def offer_to(
    engine: Engine, plan: Plan, images: Sequence[tuple[str, Array]], class_names: Sequence[str]
) -> list[Outcome]:
    """Submit the plan's requests at their intended times; `images` are class names with normalised pixels.

    Returns one outcome per request, in the plan's order.
    """
    heard: list[tuple[int, float, Update]] = []
    ended = threading.Semaphore(0)

    def listen(updates: Sequence[tuple[Ticket, Update]]) -> None:
        now = time.monotonic()
        for ticket, update in updates:
            heard.append((ticket.number, now, update))
            if _is_end(update):
                ended.release()

    tickets: list[int | None] = []
    sent: list[float] = []
    start = time.monotonic() + LEAD
    intended = (start + plan.arrivals).tolist()
    due = (start + plan.arrivals + plan.deadlines).tolist()
    with uncollected(), punctual():
        for instant, deadline, image in zip(intended, due, plan.images, strict=True):
            if (left := instant - time.monotonic()) > 0:
                time.sleep(left)
            sent.append(time.monotonic())
            budget = Budget(deadline=None if deadline == inf else deadline)
            try:
                tickets.append(engine.submit(images[image][1], budget, listen).number)
            except QueueFullError:
                tickets.append(None)
    give_up = max([time.monotonic(), *(deadline for deadline in due if deadline < inf)]) + PATIENCE
    for _ in range(len(tickets) - tickets.count(None)):
        ended.acquire(timeout=max(give_up - time.monotonic(), 0))

    told: defaultdict[int, list[Heard]] = defaultdict(list)
    for number, at, update in heard:
        told[number].append((at, update))
    outcomes = []
    for index, (ticket, image) in enumerate(zip(tickets, plan.images, strict=True)):
        status, answered, refinement, first = answer_by(told[ticket], due[index]) if ticket is not None else _REFUSED
        outcomes.append(
            Outcome(
                intended=intended[index] - start,
                sent=sent[index] - start,
                answered=(sent[index] if ticket is None else answered) - start,
                deadline=float(plan.deadlines[index]),
                status=status,
                first=first - start,
                ensemble_size=refinement.ensemble_size if refinement else 0,
                flops=refinement.flops if refinement else 0,
                correct=refinement is not None
                and class_names[int(refinement.probabilities.argmax())] == images[image][0],
                cut=refinement is not None and refinement.stop_reason in (None, StopReason.DEADLINE),
            )
        )
    return outcomes


def closed_loop(engine: Engine, images: Sequence[Array], outstanding: int, seconds: float) -> list[float]:
    """Keep so many requests without a deadline in an engine, or as many as may wait. The instants at which requests
    ended, at least two."""
    outstanding = min(outstanding, engine.settings.max_waiting)
    places, ends = threading.Semaphore(outstanding), list[float]()

    def listen(updates: Sequence[tuple[Ticket, Update]]) -> None:
        now = time.monotonic()
        for _, update in updates:
            if _is_end(update):
                ends.append(now)
                places.release()

    stop, sent = time.monotonic() + seconds, 0
    with uncollected():
        while time.monotonic() < stop or sent < 2 * outstanding + 2:
            places.acquire()
            engine.submit(images[sent % len(images)], Budget(), listen)
            sent += 1
        for _ in range(outstanding):
            places.acquire()
    return ends


_REFUSED: tuple[int, float, Refinement | None, float] = (REFUSED, nan, None, nan)


def answer_by(told: Sequence[Heard], due: float) -> tuple[int, float, Refinement | None, float]:
    """Status, instant, answer and instant of the first prediction of a request that was told this and is due then."""
    in_time = [(at, update) for at, update in told if at <= due]
    refinements = [(at, update) for at, update in in_time if isinstance(update, Refinement)]
    if refinements:
        at, latest = refinements[-1]
        if latest.stop_reason is None and due == inf:
            return LOST, nan, None, refinements[0][0]
        return ANSWERED, at if latest.stop_reason is not None else due, latest, refinements[0][0]
    if in_time:
        return MISSED, in_time[-1][0], None, nan
    return (MISSED, due, None, nan) if told else (LOST, nan, None, nan)


def _is_end(update: Update) -> bool:
    return not isinstance(update, Refinement) or update.stop_reason is not None
