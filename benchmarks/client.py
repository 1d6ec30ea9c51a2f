"""One client of the service, and what its answers come to."""

from __future__ import annotations

import http.client
import json
import math
import time
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean
from typing import Any
from urllib.parse import urlencode, urlsplit

__all__ = ["Answer", "Client", "answer_figures", "percentile"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One answer of any status, measured at the client. Without a prediction there is no label, size or cost."""

    status: int
    milliseconds: float
    label: str | None = None
    ensemble_size: int = 0
    flops: int = 0


class Client:
    """One connection that stays open. The standard library's, since the client shares the machine: it costs a fraction
    of a millisecond a request, where richer ones cost several.
    """

    def __init__(self, url: str) -> None:
        address = urlsplit(url)
        self._connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=60)

    def close(self) -> None:
        """Close the connection."""
        self._connection.close()

    def get(self, path: str) -> str:
        """The body at a path."""
        self._connection.request("GET", path)
        response = self._connection.getresponse()
        body = response.read().decode()
        if response.status != 200:
            raise SystemExit(f"{path} answers {response.status}: {body}")
        return body

    def model_card(self) -> dict[str, Any]:
        """The first model of `/v1/models`."""
        card: dict[str, Any] = json.loads(self.get("/v1/models"))["models"][0]
        return card

    def predict(self, image: bytes, **options: float) -> Answer:
        """One prediction. The clock runs from before the head is sent until the last byte is here."""
        path = f"/predict?{urlencode(options)}"
        started = time.perf_counter()
        self._connection.request("POST", path, image, {"Content-Type": "image/jpeg"})
        response = self._connection.getresponse()
        body = response.read()
        milliseconds = 1e3 * (time.perf_counter() - started)
        if response.status != 200:
            return Answer(status=response.status, milliseconds=milliseconds)
        answer = json.loads(body)
        return Answer(
            status=response.status,
            milliseconds=milliseconds,
            label=answer["predictions"][0]["label"],
            ensemble_size=answer["ensemble_size"],
            flops=answer["flops"],
        )


def answer_figures(answers: Sequence[Answer]) -> dict[str, Any]:
    """How many hold a prediction and how many do not; of those that do, the mean ensemble size and the latencies. None
    where none does.
    """
    answered = [answer for answer in answers if answer.status == 200]
    times = [answer.milliseconds for answer in answered]
    return {
        "answered": len(answered),
        "other": len(answers) - len(answered),
        "mean size": mean(answer.ensemble_size for answer in answered) if answered else None,
        "p50 ms": percentile(times, 0.5) if times else None,
        "p99 ms": percentile(times, 0.99) if times else None,
    }


def percentile(values: Sequence[float], fraction: float) -> float:
    """The nearest-rank percentile: the least value that at least this fraction (0..1) of the values do not exceed."""
    rank = math.ceil(round(fraction * len(values), 9))  # 0.07 * 100 is a little more than 7
    return sorted(values)[max(rank, 1) - 1]
