"""LitServe: batches in one worker process, the queue over ZeroMQ as it recommends above 100 requests/s.

`timeout` counts queueing alone, so it is the deadline less the largest batch's time: what has waited longer when its
batch is gathered gets a 504.
"""

from collections.abc import Sequence
from typing import Annotated, Any

import litserve
from fastapi import Body

from benchmarks.peers.workload import Classifier, Workload
from service.runners import Array

told = Workload.told()


class Predict(litserve.LitAPI):
    """`POST /predict` with an encoded image as the body."""

    def setup(self, device: str) -> None:
        """Load the model, in the worker."""
        self.classifier = Classifier(told)

    # LitServe hands the annotation to FastAPI, so this file does not postpone annotations.
    def decode_request(self, request: Annotated[bytes, Body(media_type="image/jpeg")]) -> Array:
        """One request's image."""
        return self.classifier.read(request)

    def batch(self, inputs: Sequence[Array]) -> Sequence[Array]:
        """The classifier stacks them itself."""
        return inputs

    def predict(self, inputs: Any) -> Any:
        """A whole batch, or one image where batching is off."""
        return self.classifier.predict(inputs) if told.max_batch > 1 else self.classifier.predict([inputs])[0]

    def unbatch(self, output: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """They are one by one already."""
        return output

    def encode_response(self, output: dict[str, Any]) -> dict[str, Any]:
        """FastAPI makes it JSON."""
        return output


if __name__ == "__main__":
    api = Predict(max_batch_size=told.max_batch, batch_timeout=told.batch_wait_ms / 1e3)
    server = litserve.LitServer(
        api, accelerator="cpu", workers_per_device=1, timeout=told.queue_ms / 1e3, fast_queue=True
    )
    server.run(host="127.0.0.1", port=told.port, log_level="error", generate_client_file=False, access_log=False)
