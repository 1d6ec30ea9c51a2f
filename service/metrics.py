"""The recorder: turns the plain statistics of engine, delivery and HTTP layer into Prometheus metrics.

Everyone calls methods with plain numbers (seconds, counts, multiply-adds); only this file knows metric names.
The registry is handed in, so that every service and every test has its own. No label ever holds a request or a key.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import product
from typing import get_args

from prometheus_client import CollectorRegistry, Counter, Histogram, Info, Summary
from prometheus_client.exposition import choose_encoder
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from model_core.package import Package
from model_core.tree import Segment
from service.client import Exposition, Outcome
from service.errors import (
    DeadlineMissedError,
    DrainingError,
    QueueFullError,
    ServiceError,
    StartingError,
    UploadsFullError,
)
from service.request import StopReason
from service.state import EngineSettings, EngineState, FrontState

__all__ = ["Recorder"]

REJECTIONS: dict[type[ServiceError], str] = {
    QueueFullError: "queue_full",
    UploadsFullError: "uploads_full",
    DeadlineMissedError: "deadline",
    StartingError: "starting",
    DrainingError: "draining",
}

REQUEST_SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1, 2, 5, 10, 30)
STEP_SECONDS = (0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1)
GAP_SECONDS = (0.00005, 0.0001, 0.0002, 0.0003, 0.0005, 0.00075, 0.001, 0.0015, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1)
OVERRUN_SECONDS = (0.0, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1)
ENDPOINTS = ("/predict", "/predict/stream")
BATCHES = (1, 2, 4, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256)


GAUGES: tuple[tuple[str, str, Callable[[EngineState], float]], ...] = (
    ("hne_queue_depth", "Requests waiting for their first step", lambda now: now.waiting),
    ("hne_queue_limit", "Requests that may wait at most", lambda now: now.settings.max_waiting),
    ("hne_inflight_requests", "Requests admitted and not yet answered", lambda now: now.admitted),
    ("hne_slots", "Requests that hold activations", lambda now: now.active),
    ("hne_slots_limit", "Requests that may hold activations at most", lambda now: now.settings.max_active),
    ("hne_slots_memory_bytes", "Memory that all slots take", lambda now: now.memory_bytes),
    ("hne_batch_limit", "Requests that share a step at most", lambda now: now.max_batch),
    (
        "hne_ensemble_size_allowed",
        f"Ensemble size that a request arriving now would reach within {EngineSettings().reference_deadline:g} s, "
        "if everyone in the engine advanced together with it, one network at a time",
        lambda now: now.ensemble_size_allowed,
    ),
    (
        "hne_step_straggle_ratio",
        "How many times its expected seconds a step rarely exceeds (98th percentile)",
        lambda now: now.straggle,
    ),
)


def _together(rates: Sequence[float]) -> float:
    """What several API processes bear that share the load alike, so that the weakest decides."""
    return len(rates) * min(rates)


FRONT_GAUGES: tuple[tuple[str, str, Callable[[FrontState], float], Callable[[Sequence[float]], float]], ...] = (
    ("hne_front_lag_seconds", "For how long requests may lie unseen", lambda front: front.lag, max),
    (
        "hne_front_reserve_seconds",
        "How long before a deadline refinements end, so that the reply is in time",
        lambda front: front.reserve,
        max,
    ),
    (
        "hne_front_bearable_rate",
        "Requests per second above which urgent ones get one network only; +Inf where no limit has shown",
        lambda front: front.bearable,
        _together,
    ),
    ("hne_decode_queue_depth", "Images waiting for a thread to be decoded", lambda front: front.decoding, sum),
    (
        "hne_upload_bytes",
        "Bytes of uploads being read or waiting to be decoded, beyond the first 64 KiB of each",
        lambda front: front.upload_bytes,
        sum,
    ),
)
"""Of several API processes together where they add up, else by the one that is worst off."""


class _EngineCollector(Collector):
    """Everything that is read from one look at the engine."""

    def __init__(self, state: Callable[[], EngineState]) -> None:
        self._state = state

    def collect(self) -> Iterable[Metric]:
        """See `Collector`."""
        now = self._state()
        for name, text, read in GAUGES:
            yield GaugeMetricFamily(name, text, value=read(now))
        profile = GaugeMetricFamily(
            "hne_step_expected_seconds",
            "What a step usually takes, by the ensemble size that it reaches and the requests that share it",
            labels=("ensemble_size", "batch"),
        )
        for step in now.profile:
            for batch, seconds in step.expected.items():
                profile.add_metric((str(step.ensemble_size), str(batch)), seconds)
        yield profile


class _FrontCollector(Collector):
    """Everything that is read from one look at the API processes."""

    def __init__(self, states: Callable[[], Sequence[FrontState]]) -> None:
        self._states = states

    def collect(self) -> Iterable[Metric]:
        """See `Collector`."""
        fronts = self._states() or [FrontState()]
        for name, text, read, worst in FRONT_GAUGES:
            yield GaugeMetricFamily(name, text, value=worst([read(front) for front in fronts]))


class Recorder:
    """All metrics of one served model, on one registry."""

    def __init__(self, package: Package, registry: CollectorRegistry) -> None:
        manifest = package.manifest
        sizes = tuple(manifest.spec.tree.ensemble_sizes)
        self.registry = registry
        self._accuracy = {row.ensemble_size: row.accuracy for row in manifest.table}

        def histogram(name: str, text: str, buckets: tuple[float, ...], labels: tuple[str, ...] = ()) -> Histogram:
            return Histogram(name, text, labels, buckets=buckets, registry=registry)

        self._requests = Counter(
            "hne_requests_total",
            "Requests answered, by endpoint and outcome",
            ("endpoint", "outcome"),
            registry=registry,
        )
        self._requests_by_kind = {  # all from the start: what appears with its first event has no rate then
            kind: self._requests.labels(*kind) for kind in product(ENDPOINTS, get_args(Outcome))
        }
        self._request_seconds = histogram(
            "hne_request_duration_seconds", "From a request's head to the end of its answer", REQUEST_SECONDS
        )
        self._queue_seconds = histogram(
            "hne_queue_duration_seconds", "From admission to the start of the first step", REQUEST_SECONDS
        )
        self._first_seconds = histogram(
            "hne_first_prediction_seconds", "From admission to the first leaf", REQUEST_SECONDS
        )
        self._sizes = histogram("hne_ensemble_size", "Leaves averaged in the answers", sizes)
        self._expected_accuracy = Summary(
            "hne_expected_accuracy", "Held-out accuracy of the ensemble sizes served", registry=registry
        )
        stops = Counter(
            "hne_stops_total", "Images answered, by what ended their refinement", ("reason",), registry=registry
        )
        self._stops_by_reason = {stop: stops.labels(reason=stop.value) for stop in StopReason}
        self._missed = Counter(
            "hne_deadline_missed_total",
            "Images without one leaf in time; a request that was not read by then counts as one",
            registry=registry,
        )
        self._overrun = histogram(
            "hne_deadline_overrun_seconds",
            "From when answers were due until they were out; 0 is on time",
            OVERRUN_SECONDS,
        )
        steps = histogram(
            "hne_step_duration_seconds",
            "One engine step, by ensemble size reached and leaves computed",
            STEP_SECONDS,
            ("ensemble_size", "width"),
        )
        self._step_seconds = {
            segment: steps.labels(str(segment.stop), str(segment.width)) for segment in manifest.spec.tree.segments()
        }
        self._step_batch = histogram("hne_step_batch_size", "Requests that shared a step", BATCHES)
        self._step_gap = histogram(
            "hne_step_gap_seconds", "From one step's end to the next one's start, while requests could run", GAP_SECONDS
        )
        self._flops = Counter("hne_flops_total", "Multiply-adds computed", registry=registry)
        self._rejections = Counter(
            "hne_rejections_total",
            "Images refused before any work was spent on them; a request that is refused as a whole counts as one",
            ("reason",),
            registry=registry,
        )
        for reason in REJECTIONS.values():
            self._rejections.labels(reason=reason)
        Info("hne_model", "The model that is served", registry=registry).info(
            {"model": manifest.name, "version": manifest.version, "sha256": package.sha256}
        )

    def watch(self, state: Callable[[], EngineState]) -> None:
        """Gauges that are read from the engine whenever somebody scrapes, at no cost in between."""
        self.registry.register(_EngineCollector(state))

    def watch_front(self, state: Callable[[], FrontState]) -> None:
        """See `RequestRecorder.watch_front`."""
        self.watch_fronts(lambda: [state()])

    def watch_fronts(self, states: Callable[[], Sequence[FrontState]]) -> None:
        """The same of several API processes."""
        self.registry.register(_FrontCollector(states))

    def exposition(self, accept: str) -> Exposition:
        """All metrics of the registry, in the text format of Prometheus or OpenMetrics."""
        try:
            encode, content_type = choose_encoder(accept)
        except TypeError:  # it compares the version that is asked for with numbers: `"1.0.0"`, `abc`
            encode, content_type = choose_encoder("")
        return Exposition(encode(self.registry), content_type)

    # From the HTTP layer where a request is not admitted, from the engine where it was and never started

    def rejected(self, error: ServiceError) -> None:
        """A request was refused before any work was spent on it. Faults that are no refusal do not count."""
        if (reason := REJECTIONS.get(type(error))) is not None:
            self._rejections.labels(reason=reason).inc()

    # From the engine

    def step(self, segment: Segment, *, batch: int, seconds: float, flops: int) -> None:
        """One step took `batch` requests through a segment; `flops` are those of the whole batch."""
        self._step_seconds[segment].observe(seconds)
        self._step_batch.observe(batch)
        self._flops.inc(flops)

    def step_gap(self, *, seconds: float) -> None:
        """The device stood idle between two steps, though requests could run."""
        self._step_gap.observe(seconds)

    def started(self, *, waited: float) -> None:
        """A request's first step began `waited` seconds after its admission."""
        self._queue_seconds.observe(waited)

    def first_prediction(self, *, seconds: float) -> None:
        """A request has its first leaf, `seconds` after its admission."""
        self._first_seconds.observe(seconds)

    # From the delivery

    def answered(self, *, ensemble_size: int, stop_reason: StopReason) -> None:
        """See `RequestRecorder.answered`."""
        self._stops_by_reason[stop_reason].inc()
        self._sizes.observe(ensemble_size)
        self._expected_accuracy.observe(self._accuracy[ensemble_size])

    def deadline_missed(self) -> None:
        """A request's deadline came before its first leaf."""
        self._missed.inc()

    # From the HTTP layer

    def request(self, *, endpoint: str, outcome: Outcome, seconds: float, overrun: float | None) -> None:
        """See `RequestRecorder.request`. Both labels come from small fixed sets."""
        self._requests_by_kind[endpoint, outcome].inc()
        self._request_seconds.observe(seconds)
        if overrun is not None:
            self._overrun.observe(overrun)
