"""Submission: one prediction request between its arrival and its answer.

`submit` is a dependency, so that whatever is wrong with a request is raised before an answer starts, and so that the
engine is told to drop what nobody waits for any more when the answer is over, however it ended.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Annotated

import numpy as np
from fastapi import Depends, Header, Query, Request

from service.access import Authorized
from service.arrival import Head, head_of
from service.delivery import Mailbox
from service.errors import DeadlineMissedError, InvalidError, UnavailableError
from service.lifecycle import Service
from service.request import Budget, Priority, Refinement
from service.schemas import Answer, Options, Prediction
from service.upload import read_upload

__all__ = ["EVENT_STREAM", "STREAM_PATH", "Submission", "Submitted", "wants_stream"]

DEFAULT_TOP_K = 5
EVENT_STREAM = "text/event-stream"
STREAM_PATH = "/predict/stream"


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """A request whose images the engine has."""

    service: Service
    head: Head
    deadline_ms: float
    """When the answer is due, counted from the arrival of the head."""
    top_k: int
    decoded_at: float
    submitted_at: float
    mailboxes: list[Mailbox]
    is_list: bool

    def answer(self, refinement: Refinement) -> Answer:
        """What a client gets to see of a refinement now."""
        manifest = self.service.package.manifest
        best = np.argsort(-refinement.probabilities, kind="stable")[: self.top_k]
        return Answer(
            predictions=[
                Prediction(
                    label=manifest.class_names[index],
                    class_id=int(index),
                    probability=round(float(refinement.probabilities[index]), 6),
                )
                for index in best
            ],
            ensemble_size=refinement.ensemble_size,
            max_ensemble_size=manifest.spec.tree.leaves,
            stop_reason=refinement.stop_reason,
            flops=refinement.flops,
            expected_accuracy=manifest.table[refinement.ensemble_size - 1].accuracy,
            elapsed_ms=_ms(self.service.clock() - self.head.arrived_at),
            queue_ms=_ms(refinement.started_at - self.submitted_at),
            model=manifest.name,
            request_id=self.head.request_id,
        )

    def server_timing(self, refinement: Refinement) -> str:
        """The `Server-Timing` header: where the time went, in milliseconds."""
        spans = {
            "read": self.decoded_at - self.head.arrived_at,
            "queue": refinement.started_at - self.submitted_at,
            "compute": refinement.at - refinement.started_at,
            "total": self.service.clock() - self.head.arrived_at,
        }
        return ", ".join(f"{name};dur={_ms(seconds)}" for name, seconds in spans.items())


def wants_stream(request: Request) -> bool:
    """Whether the answer is to be a stream of events."""
    return request.url.path == STREAM_PATH or EVENT_STREAM in request.headers.get("accept", "")


async def submit(
    request: Request,
    service: Authorized,
    query: Annotated[Options, Query()],
    x_request_timeout_ms: Annotated[
        float | None, Header(gt=0, allow_inf_nan=False, description="As deadline_ms; the shorter one counts.")
    ] = None,
) -> AsyncIterator[Submission]:
    """Read, decode and hand over a request's images.

    Raises:
        ServiceError: of any kind; `service.problems` maps them.
    """
    with ExitStack() as mailboxes:
        try:
            submission = await _admitted(request, service, query, x_request_timeout_ms, mailboxes)
        except UnavailableError as error:  # wherever it came from; a request of many images is one refusal
            service.recorder.rejected(error)
            raise
        yield submission


Submitted = Annotated[Submission, Depends(submit)]


async def _admitted(
    request: Request, service: Service, query: Options, x_request_timeout_ms: float | None, mailboxes: ExitStack
) -> Submission:
    """As `submit`; leaving `mailboxes` makes the engine drop what is not answered yet."""
    delivery = service.delivery  # a service that cannot answer now says so before the upload
    head = head_of(request)
    settings = service.settings

    def due(options: Options) -> float:
        asked = options.deadline_ms or settings.default_deadline_ms
        return min(ms for ms in (asked, x_request_timeout_ms, settings.max_deadline_ms) if ms is not None)

    def instant(deadline_ms: float) -> float:
        return head.arrived_at + (deadline_ms - settings.reply_ms) / 1e3

    def loop_time(deadline_ms: float) -> float:
        return asyncio.get_running_loop().time() + instant(deadline_ms) - service.clock()

    try:
        async with asyncio.timeout_at(loop_time(due(query))) as timeout:
            upload = await read_upload(request, max_bytes=settings.max_body_bytes, max_images=settings.max_images)
            if upload.is_list and wants_stream(request):
                raise InvalidError({"body.images": "a stream answers one image"})
            options = query.merged(upload.options)
            deadline_ms = due(options)
            top_k = _check(options, service)
            timeout.reschedule(loop_time(deadline_ms))
            images = await asyncio.gather(*(service.decoder.decode(data, name) for name, data in upload.images.items()))
    except TimeoutError as error:
        service.recorder.deadline_missed()
        raise DeadlineMissedError from error
    decoded_at = service.clock()
    budget = Budget(
        deadline=instant(deadline_ms),
        max_flops=options.max_flops,
        max_ensemble_size=options.max_ensemble_size,
        min_confidence=options.min_confidence,
        priority=Priority[(options.priority or "normal").upper()],
    )
    submitted_at = service.clock()
    submitted = [mailboxes.enter_context(delivery.submit(image, budget)) for image in images]
    for mailbox in submitted:
        await mailbox.admitted()
    return Submission(
        service=service,
        head=head,
        deadline_ms=deadline_ms,
        top_k=top_k,
        decoded_at=decoded_at,
        submitted_at=submitted_at,
        mailboxes=submitted,
        is_list=upload.is_list,
    )


def _check(options: Options, service: Service) -> int:
    """Refuse what this model cannot do; the number of classes to answer with."""
    manifest = service.package.manifest
    classes = len(manifest.class_names)
    if options.model not in (None, manifest.name):
        raise InvalidError({"model": f"{options.model} is not served here; valid: {manifest.name}"})
    if options.top_k is None:
        return min(DEFAULT_TOP_K, classes)
    if options.top_k > classes:
        raise InvalidError({"top_k": f"the model has {classes} classes"})
    return options.top_k


def _ms(seconds: float) -> float:
    return round(seconds * 1e3, 3)
