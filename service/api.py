"""API: the routes. `submit` has done the work before one of these answers; see `service.submission`."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Request
from fastapi.responses import FileResponse, PlainTextResponse, Response
from fastapi.routing import APIRoute
from pydantic import TypeAdapter

from service.accept import EVENT_STREAM
from service.access import SECURITY, Authorized, service_of
from service.errors import ServiceError
from service.lifecycle import Service
from service.problems import Problem, problem_of, problem_responses
from service.query import PARAMETERS
from service.schemas import Answer, Limits, ModelCard, ModelList, SizeFigures, StepTimes
from service.state import EngineState
from service.stream import EventStream, until_disconnect
from service.submission import STREAM_PATH, Submission, submit
from service.upload import REQUEST_BODY

__all__ = ["ROUTES"]

WATCH_FROM = 0.05
"""Seconds after which it is watched for whether the client of a single answer is still there."""


class Direct(APIRoute):
    """A route whose endpoint takes the request and nothing else: FastAPI documents it and leaves it alone."""

    def get_route_handler(self) -> Callable[[Request], Any]:
        """See `APIRoute`."""
        return self.endpoint


router = APIRouter()
"""What is read."""
predictions = APIRouter(route_class=Direct, tags=["predictions"])

PLAYGROUND = Path(__file__).parent / "playground" / "index.html"
PLAYGROUND_POLICY = (  # one file that loads nothing and talks to nobody but this service
    "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'; connect-src 'self'; img-src blob:; "
    "frame-ancestors 'none'; base-uri 'none'; form-action 'none'"
)

Answers = Answer | list[Answer | Problem]
EXAMPLE_EVENTS = """
event: start
id: 0
data: {"model": "hne_small", "max_ensemble_size": 16, ...}

event: prediction
id: 1
data: {"predictions": [...], "ensemble_size": 1, "flops": 13000000, ...}

event: done
id: 2
data: {"predictions": [...], "ensemble_size": 16, "stop_reason": "complete", ...}
""".lstrip()
STREAM_CONTENT = {EVENT_STREAM: {"schema": {"type": "string"}, "example": EXAMPLE_EVENTS}}


def _responses(description: str) -> dict[int | str, dict[str, Any]]:
    problems = problem_responses(400, 401, 413, 415, 422, 500, 503, 504)
    return {200: {"description": description, "content": STREAM_CONTENT}, **problems}


OPERATION = {"requestBody": REQUEST_BODY, "parameters": PARAMETERS, "security": SECURITY}
"""What FastAPI cannot see of a prediction: `submit` reads it from the request."""

_answers = TypeAdapter(list[Answer | Problem])


@predictions.post(
    "/predict",
    summary="Classify an image within a budget",
    response_model=Answers,
    responses=_responses("The deepest prediction in time; of several images a list."),
    openapi_extra=OPERATION,
)
async def predict(request: Request) -> Response:
    """The deepest prediction that the budget allows.

    With `Accept: text/event-stream` it refines before your eyes, as `/predict/stream`; who takes JSON too gets what has
    more weight, or comes first. Of several images, one without a single network in time has a problem in its place of
    the list; the status is an error only if all have.
    """
    submission = await submit(request)
    if submission.streams:
        return EventStream(submission)
    with submission:
        known = all(mailbox.ended for mailbox in submission.mailboxes)
        async with nullcontext() if known else until_disconnect(request.receive, after=WATCH_FROM):
            if submission.is_list:
                return await _list(submission)
            refinement = await submission.mailboxes[0].answer()
    head = submission.head
    head.first_at, head.ended_at = refinement.first_at, refinement.ended_at
    body = submission.answer(refinement).model_dump_json()
    return Response(
        body, media_type="application/json", headers={"Server-Timing": submission.server_timing(refinement)}
    )


@predictions.post(
    STREAM_PATH,
    summary="Watch a prediction refine",
    response_class=EventStream,
    responses=_responses("Events."),
    openapi_extra=OPERATION,
)
async def predict_stream(request: Request) -> Response:
    """Server-sent events: `start`, a `prediction` per refinement, then one `done` or `error`.

    Each prediction is cumulative, so a reader that falls behind skips to the latest and loses nothing.
    """
    return EventStream(await submit(request))


@router.get(
    "/v1/models", summary="What is served, at which cost", responses=problem_responses(401, 500, 503), tags=["models"]
)
async def models(service: Authorized) -> ModelList:
    """Each model with cost, held-out accuracy and expected latency per ensemble size, and the service's limits."""
    return ModelList(models=[_card(service, await service.engine.snapshot())])


@router.get("/", include_in_schema=False)
async def playground() -> FileResponse:
    """A page to try it: drop an image, name a budget, watch the prediction refine."""
    headers = {"Content-Security-Policy": PLAYGROUND_POLICY, "Cache-Control": "no-cache"}  # it is the service's version
    return FileResponse(PLAYGROUND, headers=headers | {"X-Content-Type-Options": "nosniff"})


@router.get("/healthz", summary="Is the process alive?", tags=["operation"])
async def healthz() -> dict[str, str]:
    """Answers as long as the event loop turns."""
    return {"status": "alive"}


@router.get("/readyz", summary="Can it take requests?", responses=problem_responses(503), tags=["operation"])
async def readyz(service: Annotated[Service, Depends(service_of)]) -> dict[str, str]:
    """503 until the model is loaded and measured, and again while the service shuts down."""
    service.check_ready()
    return {"status": "ready"}


@router.get(
    "/metrics",
    summary="Prometheus metrics",
    response_class=PlainTextResponse,
    responses=problem_responses(500, 503),
    tags=["operation"],
)
async def metrics(request: Request, service: Annotated[Service, Depends(service_of)]) -> Response:
    """In the text format of Prometheus or OpenMetrics."""
    text, content_type = await service.engine.exposition(request.headers.get("accept", ""))
    return Response(text, headers={"Content-Type": content_type})


for _route in [route for route in router.routes if isinstance(route, APIRoute)]:  # by HEAD too, as probes do
    router.add_api_route(_route.path, _route.endpoint, methods=["HEAD"], include_in_schema=False)

ROUTES = [*predictions.routes, *router.routes]
"""All of them, as the app's own: a router that is included costs each request a search of its own."""


async def _list(submission: Submission) -> Response:
    answers: list[Answer | Problem] = []
    errors: list[ServiceError] = []
    for mailbox in submission.mailboxes:  # they fill at the same time, whichever is waited for first
        try:
            answers.append(submission.answer(await mailbox.answer()))
        except ServiceError as error:
            errors.append(error)
            answers.append(problem_of(error, submission.head.request_id, first_seconds=submission.service.firsts.value))
    if len(errors) == len(answers):
        raise errors[0]
    return Response(_answers.dump_json(answers), media_type="application/json")


def _card(service: Service, state: EngineState) -> ModelCard:
    manifest, settings = service.package.manifest, service.settings
    table = [
        SizeFigures(**row.model_dump(), expected_latency_ms=_ms(seconds))
        for row, seconds in zip(manifest.table, state.latencies, strict=True)
    ]
    return ModelCard(
        name=manifest.name,
        version=manifest.version,
        sha256=service.package.sha256,
        architecture=manifest.spec.name,
        classes=manifest.spec.classes,
        class_names=manifest.class_names,
        input_shape=manifest.spec.input_shape,
        runner=state.runner,
        policy=state.settings.policy,
        limits=Limits.model_validate(settings, from_attributes=True),
        evaluated_on=manifest.evaluated_on,
        table=table,
        profile=[
            StepTimes(
                ensemble_size=step.ensemble_size,
                expected_ms={batch: _ms(value) for batch, value in step.expected.items()},
                quantile_ms={batch: _ms(value) for batch, value in step.quantile.items()},
            )
            for step in state.profile
        ],
    )


def _ms(seconds: float) -> float:
    return round(seconds * 1e3, 3)
