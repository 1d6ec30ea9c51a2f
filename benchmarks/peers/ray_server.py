"""Ray Serve: dynamic batching in one replica; the computation in a thread, so that the replica's event loop gathers on.

`request_timeout_s` is the deadline: a request that takes longer is cancelled and answered with a 408.

Ray's high-throughput mode (`servers.py` turns it on) lets a replica take HTTP itself and puts HAProxy before it. That
one would listen on every interface and cost a hop, so here the client speaks to the one replica.
"""

import asyncio
import signal
from typing import Any

import ray
from ray import serve
from ray.serve.config import HTTPOptions
from ray.serve.schema import LoggingConfig
from starlette.requests import Request

from benchmarks.peers.workload import Classifier, Workload

told = Workload.told()


class Predict:
    """`POST /predict` with an encoded image as the body."""

    def __init__(self, workload: Workload) -> None:
        self.classifier = Classifier(workload)

    @serve.batch(max_batch_size=told.max_batch, batch_wait_timeout_s=told.batch_wait_ms / 1e3)
    async def classify(self, images: list[bytes]) -> list[dict[str, Any]]:
        """A whole batch."""
        return await asyncio.to_thread(self._classify, images)

    async def __call__(self, request: Request) -> dict[str, Any]:
        """One request."""
        answer: dict[str, Any] = await self.classify(await request.body())
        return answer

    def _classify(self, images: list[bytes]) -> list[dict[str, Any]]:
        return self.classifier.predict([self.classifier.read(image) for image in images])


if __name__ == "__main__":
    ray.init(
        address="local",
        num_cpus=max(told.cores, 2),
        object_store_memory=100 * 2**20,
        include_dashboard=False,
        log_to_driver=False,
    )
    serve.start(
        http_options=HTTPOptions(host="127.0.0.1", port=0, request_timeout_s=told.deadline_ms / 1e3),
        logging_config=LoggingConfig(log_level="ERROR", enable_access_log=False),
    )
    deployment = serve.deployment(
        num_replicas=1,
        max_ongoing_requests=4 * told.max_batch,  # more than a batch that runs and one that gathers
        ray_actor_options={"num_cpus": 1},
    )
    serve.run(deployment(Predict).bind(told), route_prefix="/predict")
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    serve.shutdown()
    ray.shutdown()
