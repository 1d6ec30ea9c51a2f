"""What every peer is told, and what every peer does with an image: only the serving framework differs between them."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import onnxruntime as ort

from model_core.package import Package
from service.images import Decoder
from service.runners import Array
from service.runners.devices import session_options

__all__ = ["Classifier", "Workload"]

VARIABLE = "PEER_WORKLOAD"


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """One server's task. It travels in the environment, since some frameworks start processes of their own."""

    package: str
    graph: str
    size: int
    """Networks in the graph."""
    port: int
    cores: int
    """CPU threads that compute, all together."""
    threads: int
    """Of them, those that share one batch: what serves a server best is found out."""
    deadline_ms: float
    """Later answers are lost: a framework that can give up a request by then is to do so."""
    queue_ms: float
    """The longest wait after which the largest batch is still on time: for timeouts that count queueing alone."""
    max_batch: int
    batch_wait_ms: float
    """How long a batch may wait for more requests."""

    def environment(self) -> dict[str, str]:
        """The variables that tell a server of it."""
        return {VARIABLE: json.dumps(asdict(self))}

    @classmethod
    def told(cls, environment: Mapping[str, str] = os.environ) -> Self:
        """The workload of this process."""
        return cls(**json.loads(environment[VARIABLE]))


class Classifier:
    """The model behind a peer: our service's decoding and session options, one graph."""

    def __init__(self, workload: Workload) -> None:
        package = Package.load(workload.package)
        manifest = package.manifest
        self._names = manifest.class_names
        self._size = workload.size
        self._flops = manifest.cumulative_flops[workload.size]
        self._decoder = Decoder(
            manifest.preprocessing, manifest.spec.input_shape, max_pixels=50_000_000, threads=1, max_waiting=1
        )
        # Not by `open_session`, whose threads stand back for an event loop that most peers have in another process.
        options = session_options(workload.threads)
        self._session = ort.InferenceSession(Path(workload.graph), options, providers=["CPUExecutionProvider"])

    def read(self, data: bytes) -> Array:
        """The network's input (C, H, W) of an encoded image.

        Raises:
            ServiceError: it is none.
        """
        return self._decoder.read(data)

    def predict(self, images: Sequence[Array]) -> list[dict[str, Any]]:
        """The best class of every image, in the form of our service's answer."""
        probabilities = np.asarray(self._session.run(["probabilities"], {"x": np.stack(images)})[0])  # (B, K)
        return [self._answer(row) for row in probabilities]

    def _answer(self, probabilities: Array) -> dict[str, Any]:
        best = int(probabilities.argmax())
        prediction = {
            "label": self._names[best],
            "class_id": best,
            "probability": round(float(probabilities[best]), 6),
        }
        return {
            "predictions": [prediction],
            "ensemble_size": self._size,
            "stop_reason": "complete",
            "flops": self._flops,
        }
