"""Plain FastAPI: every request on its own, decoded and computed in FastAPI's own pool of threads. The one to beat.

The pool is as large as the machine has cores for computing, by AnyIO's limiter as Starlette's documentation says: with
its default of 40 threads all requests in flight slow each other down. There is no batching and no queue timeout to set.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import anyio.to_thread
import uvicorn
from fastapi import FastAPI, Request
from starlette.concurrency import run_in_threadpool

from benchmarks.peers.workload import Classifier, Workload

__all__ = ["create_app"]


def create_app(workload: Workload) -> FastAPI:
    """The app: `POST /predict` with an encoded image as the body."""
    classifier = Classifier(workload)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        anyio.to_thread.current_default_thread_limiter().total_tokens = workload.cores
        yield

    app = FastAPI(lifespan=lifespan)

    def answer(data: bytes) -> dict[str, Any]:
        return classifier.predict([classifier.read(data)])[0]

    @app.post("/predict")
    async def predict(request: Request) -> dict[str, Any]:
        return await run_in_threadpool(answer, await request.body())

    return app


if __name__ == "__main__":
    told = Workload.told()
    uvicorn.run(create_app(told), host="127.0.0.1", port=told.port, log_level="warning", access_log=False)
