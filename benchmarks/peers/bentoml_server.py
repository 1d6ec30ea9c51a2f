"""BentoML: adaptive batching in one worker process. `max_latency_ms` is the deadline: a request that BentoML expects to
be later gets a 503. It does so for APIs that batch only, so this one does even where the others take one at a time: two
at most then.

A batchable API takes and gives lists, so the raw body becomes a list of one and the answer leaves its list again.
"""

import logging
from typing import Annotated, Any

import bentoml
from pydantic import BeforeValidator, PlainSerializer, WithJsonSchema

from benchmarks.peers.workload import Classifier, Workload

told = Workload.told()

Body = Annotated[
    list[bytes],
    BeforeValidator(lambda body: [body]),
    WithJsonSchema({"type": "string", "format": "binary"}),
]
Answer = Annotated[list[dict[str, Any]], PlainSerializer(lambda answers: answers[0], return_type=dict[str, Any])]


@bentoml.service(workers=1, logging={"access": {"enabled": False}})
class Predict:
    """`POST /predict` with an encoded image as the body."""

    def __init__(self) -> None:
        self.classifier = Classifier(told)
        # Each refusal would be logged with its traceback, which costs more than many an answer.
        logging.getLogger("bentoml").setLevel(logging.CRITICAL)

    @bentoml.api(
        batchable=True,
        max_batch_size=max(told.max_batch, 2),
        max_latency_ms=round(told.deadline_ms),
    )
    def predict(self, images: Body, /) -> Answer:
        """A whole batch."""
        return self.classifier.predict([self.classifier.read(image) for image in images])
