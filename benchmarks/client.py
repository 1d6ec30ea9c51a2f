"""What the benchmarks over HTTP share: labelled images, one request, the served model's card, the report."""

from __future__ import annotations

import argparse
import http.client
import json
import math
import platform
import random
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib.metadata import distributions
from pathlib import Path
from statistics import mean
from typing import Any
from urllib.parse import urlencode, urlsplit

from service.processors import processors

__all__ = [
    "Answer",
    "Client",
    "answer_figures",
    "arguments",
    "check_labels",
    "labelled_images",
    "machine",
    "percentile",
    "print_table",
    "run",
    "write_report",
]

SUFFIXES = {".jpg", ".jpeg", ".png", ".webp"}
LIBRARIES = {"fastapi", "msgspec", "numpy", "onnxruntime", "onnxruntime-gpu", "pillow", "pyzmq", "torch", "uvicorn"}
"""Those whose versions a report states."""
NAMED = 10
"""Classes that a message names at most; ImageNet has a thousand."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """One answer of any status, measured at the client. Without a prediction there is no label, size or cost."""

    status: int
    milliseconds: float
    label: str | None = None
    ensemble_size: int = 0
    flops: int = 0


def arguments(description: str | None, *, images: int, results: str, url: bool = True) -> argparse.ArgumentParser:
    """The flags that every benchmark has; `url` only where it measures a service that runs already."""
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    if url:
        parser.add_argument("--url", default="http://127.0.0.1:8000", help="the running service")
    parser.add_argument("--images", type=Path, required=True, help="a folder with one folder of images per class")
    parser.add_argument("--count", type=int, default=images, help="images to send, drawn evenly from all classes")
    parser.add_argument("--seed", type=int, default=0, help="of the draw")
    parser.add_argument("--output", type=Path, default=Path("benchmarks/results") / results, help="where the JSON goes")
    return parser


def labelled_images(folder: Path, count: int, seed: int) -> list[tuple[str, bytes]]:
    """`count` images of an image folder with their class names, shuffled.

    Raises:
        SystemExit: there are not so many.
    """
    files = sorted(path for path in folder.glob("*/*") if path.suffix.lower() in SUFFIXES)
    if len(files) < count:
        raise SystemExit(f"{folder} holds {len(files)} images in class folders; {count} are asked for")
    return [(path.parent.name, path.read_bytes()) for path in random.Random(seed).sample(files, count)]


def check_labels(images: Iterable[tuple[str, bytes]], class_names: Iterable[str]) -> None:
    """Refuse images of classes that a model does not know: none of its answers could be right.

    `images` are class names with encoded images; `class_names` are those of the model's card or manifest.

    Raises:
        SystemExit: names the unknown classes and the known ones.
    """
    known = list(class_names)
    if unknown := sorted({label for label, _ in images}.difference(known)):
        raise SystemExit(f"the model does not know the classes {_named(unknown)}; it knows {_named(known)}")


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


def write_report(
    path: Path,
    benchmark: str,
    card: dict[str, Any],
    rows: Sequence[dict[str, Any]],
    *,
    columns: Sequence[str] | None = None,
    **how: Any,
) -> None:
    """Print the rows as a table and write them, with how they came about, as JSON."""
    print_table(rows, columns)
    report = {
        "benchmark": benchmark,
        "model": {name: card[name] for name in ("name", "version", "sha256", "runner")},
        "machine": machine(),
        **how,
        "rows": list(rows),
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    print(f"written to {path}")


def print_table(rows: Sequence[dict[str, Any]], columns: Sequence[str] | None = None) -> None:
    """All columns, unless some are named."""
    widths = {name: max(len(name), *(len(_cell(row[name])) for row in rows)) for name in columns or rows[0]}
    print("  ".join(name.rjust(width) for name, width in widths.items()))
    for row in rows:
        print("  ".join(_cell(row[name]).rjust(width) for name, width in widths.items()))


def percentile(values: Sequence[float], fraction: float) -> float:
    """The nearest-rank percentile: the least value that at least this fraction (0..1) of the values do not exceed."""
    rank = math.ceil(round(fraction * len(values), 9))  # 0.07 * 100 is a little more than 7
    return sorted(values)[max(rank, 1) - 1]


def run(main: Callable[[], None]) -> None:
    """Run a benchmark, with one line instead of a traceback where the service does not answer."""
    try:
        main()
    except (OSError, http.client.HTTPException) as error:
        raise SystemExit(f"the service does not answer: {error!r}") from error


def machine() -> dict[str, Any]:
    """What a benchmark ran on."""
    return {
        "platform": platform.platform(),
        "processor": _processor(),
        "cores": processors(),
        "python": platform.python_version(),
        "versions": {name: found.version for found in distributions() if (name := found.name) in LIBRARIES},
    }


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.processor())


def _named(classes: Sequence[str]) -> str:
    more = f" and {len(classes) - NAMED} more" if len(classes) > NAMED else ""
    return ", ".join(map(repr, classes[:NAMED])) + more


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
