"""Submission: one prediction request between its arrival and its answer.

    with await submit(request) as submission: ...     # leaving the block drops what nobody waits for any more

`submit` raises whatever is wrong with a request, so that an error is a status before any answer starts.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import TracebackType
from typing import Self

import numpy as np
from fastapi import Request
from numpy.typing import NDArray

from service.accept import Form, accepted_form
from service.access import check_key
from service.arrival import Head, head_of
from service.delivery import Mailbox
from service.errors import DeadlineMissedError, InvalidError, UnavailableError
from service.images import Decoder
from service.lifecycle import Service
from service.query import read_query
from service.request import Budget, Priority, Refinement
from service.schemas import Answer, Options, Prediction
from service.strain import URGENT_SECONDS
from service.upload import has_options, read_upload

__all__ = ["STREAM_PATH", "Submission", "submit"]

DEFAULT_TOP_K = 5
STREAM_PATH = "/predict/stream"
QUICK_SECONDS, ALONE_SECONDS = 0.0006, 0.001
"""Of computing for which the event loop may stand still, for anybody and for a client that is alone."""
CROWD, HURRY_SECONDS = 4, 0.01
"""Where so many wait for their turn, who has longer until his deadline shares a step with them."""
PRIORITIES: dict[str | None, Priority] = {
    None: Priority.NORMAL,
    **{priority.name.lower(): priority for priority in Priority},
}


@dataclass(slots=True, kw_only=True)  # nobody changes one; frozen, making it takes three times as long
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
    streams: bool
    """Whether the answer is a stream of events."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for mailbox in self.mailboxes:
            mailbox.close()

    def answer(self, refinement: Refinement) -> Answer:
        """What a client gets to see of a refinement now."""
        manifest, probabilities = self.service.package.manifest, refinement.probabilities
        best = np.argsort(-probabilities, kind="stable")[: self.top_k]
        return Answer(
            predictions=[
                Prediction(label=manifest.class_names[index], class_id=index, probability=round(probability, 6))
                for index, probability in zip(best.tolist(), probabilities[best].tolist(), strict=True)
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
        read = self.decoded_at - self.head.arrived_at
        queue = refinement.started_at - self.submitted_at
        compute = refinement.at - refinement.started_at
        total = self.service.clock() - self.head.arrived_at
        return (
            f"read;dur={1e3 * read:.3f}, queue;dur={1e3 * queue:.3f}, "
            f"compute;dur={1e3 * compute:.3f}, total;dur={1e3 * total:.3f}"
        )


async def submit(request: Request) -> Submission:
    """Read, decode and hand over a request's images.

    It is no dependency of FastAPI's, and takes its parameters from the request by itself, as `service.query` documents
    them: declared to FastAPI they take longer than all the rest of what happens before the engine.

    Raises:
        ServiceError: of any kind; `service.problems` maps them.
    """
    service: Service = request.app.state.service
    check_key(request.headers, service)
    try:
        try:
            with service.room.share() as take:
                return await _admitted(request, service, take)
        except asyncio.CancelledError:  # by uvicorn, of who is not read to its end when the time to drain is over
            service.check_ready()
            raise
    except UnavailableError as error:  # wherever it came from; a request of many images is one refusal
        service.recorder.rejected(error)
        raise


async def _admitted(request: Request, service: Service, take: Callable[[int], None]) -> Submission:
    """As `submit`; `take` hears of the bytes that come."""
    query, longest = read_query(request)
    delivery = service.delivery  # a service that cannot answer now says so before the upload
    head, settings, clock = head_of(request), service.settings, service.clock

    def due(options: Options, *, default: float | None = settings.default_deadline_ms) -> float:
        asked = options.deadline_ms or default
        return min(ms for ms in (asked, longest, settings.max_deadline_ms) if ms is not None)

    def instant(deadline_ms: float) -> float:
        return head.arrived_at + deadline_ms / 1e3 - service.reserve.of(deadline_ms / 1e3)

    form = Form.STREAM if request.scope["path"].endswith(STREAM_PATH) else accepted_form(request.scope["headers"])
    options, may_name_one = query, has_options(request)
    # A body that may name a deadline longer than the usual one has the time to say so.
    deadline_ms = due(query, default=None) if may_name_one else due(query)
    deadline = instant(deadline_ms)
    try:
        async with asyncio.timeout(_left(deadline, clock)) as timeout:
            upload = await read_upload(
                request, max_bytes=settings.max_body_bytes, max_images=settings.max_images, take=take
            )
            if upload.is_list and form is Form.STREAM:
                raise InvalidError({"body.images": "a stream answers one image"})
            streams = form is not Form.JSON and not upload.is_list
            if may_name_one:
                options = query if upload.options is None else query.merged(upload.options)
                deadline_ms = due(options)
                deadline = instant(deadline_ms)
                timeout.reschedule(asyncio.get_running_loop().time() + _left(deadline, clock))
            top_k = _check(options, query, service)
            priority = PRIORITIES[options.priority]
            await service.turns.next(deadline, priority)
            head.turn_at = clock()
            images = await _decoded(service.decoder, upload.images, priority, deadline)
    except TimeoutError as error:
        missed = DeadlineMissedError()
        service.recorder.deadline_missed()
        if head.turn_at is None:
            service.recorder.rejected(missed)
        raise missed from error
    decoded_at = clock()
    due_at = head.due_at = head.arrived_at + deadline_ms / 1e3
    budget = Budget(
        deadline=deadline,
        refine_by=due_at - service.reserve.refining(deadline_ms / 1e3),
        max_flops=options.max_flops,
        max_ensemble_size=options.max_ensemble_size,
        min_confidence=options.min_confidence,
        priority=priority,
        refine=deadline_ms > 1e3 * URGENT_SECONDS or options.min_confidence == 1 or not service.strain.too_high,
        every_size=streams if options.every_size is None else options.every_size,
    )
    submitted_at = clock()
    within = _on_the_spot(service, len(images), streams=streams, left=deadline - submitted_at)
    mailboxes: list[Mailbox] = []
    try:
        for image in images:
            mailbox = delivery.submit(image, budget, within=within)
            mailboxes.append(mailbox)
        for mailbox in mailboxes:
            await mailbox.admitted()
    except BaseException:  # one was refused, or the client left: the engine drops the others
        for mailbox in mailboxes:
            mailbox.close()
        raise
    return Submission(
        service=service,
        head=head,
        deadline_ms=deadline_ms,
        top_k=top_k,
        decoded_at=decoded_at,
        submitted_at=submitted_at,
        mailboxes=mailboxes,
        is_list=upload.is_list,
        streams=streams,
    )


def _on_the_spot(service: Service, images: int, *, streams: bool, left: float) -> float:
    """For how many seconds the event loop may compute for a request that has `left` seconds until its deadline.

    Several images are better off in a batch, and so are those of a crowd: while the engine's thread is at a step, those
    who wait for their turn are taken up, and share the next. That carries half as many requests again, but each waits
    longer. A stream is to show what is computed meanwhile.
    """
    if images > 1 or streams or (left > HURRY_SECONDS and service.turns.awaited >= CROWD):
        return 0.0
    return ALONE_SECONDS if service.strain.alone else QUICK_SECONDS


def _left(deadline: float, clock: Callable[[], float]) -> float:
    """Seconds until then. Raises TimeoutError where there are none."""
    if (left := deadline - clock()) <= 0:
        raise TimeoutError("its time was over before its turn came: no work is spent on it")
    return left


async def _decoded(
    decoder: Decoder, images: Mapping[str, bytes], priority: Priority, deadline: float
) -> list[NDArray[np.float32]]:
    """All at the same time, and none any more once one of them fails; one, which is the rule, without a task."""
    alone = len(images) == 1
    jobs = [
        decoder.decode(data, name, priority=priority, deadline=deadline, at_once=alone) for name, data in images.items()
    ]
    if alone:
        return [await jobs[0]]
    tasks = [asyncio.ensure_future(job) for job in jobs]
    try:
        return await asyncio.gather(*tasks)
    except BaseException:
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        raise


def _check(options: Options, query: Options, service: Service) -> int:
    """Refuse what this model cannot do, asked for in the query or in the body; the number of classes to answer with."""

    def refusal(name: str, why: str) -> InvalidError:
        return InvalidError({f"{'query' if name in query.model_fields_set else 'body'}.{name}": why})

    manifest = service.package.manifest
    classes = len(manifest.class_names)
    if options.model not in (None, manifest.name):
        raise refusal("model", f"{options.model} is not served here; valid: {manifest.name}")
    if options.top_k is None:
        return min(DEFAULT_TOP_K, classes)
    if options.top_k > classes:
        raise refusal("top_k", f"the model has {classes} classes")
    return options.top_k


def _ms(seconds: float) -> float:
    return round(seconds * 1e3, 3)
