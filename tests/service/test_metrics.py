from itertools import product

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from model_core.package import Package
from model_core.tree import Segment
from service.api import ROUTES, Direct
from service.errors import DrainingError, QueueFullError, RunnerError, StartingError
from service.front import outcome_of
from service.metrics import Recorder
from service.request import StopReason
from service.state import FrontState
from tests.service.states import state


@pytest.fixture
def recorder(package: Package) -> Recorder:
    recorder = Recorder(package, CollectorRegistry())
    recorder.watch(state)
    recorder.watch_fronts(lambda: [FrontState(0.01, 0.004, 300.0), FrontState(0.002, 0.02)])
    return recorder


def test_every_promised_metric_is_there_before_the_first_request(recorder: Recorder, package: Package) -> None:
    text = generate_latest(recorder.registry).decode()
    families = {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")}
    assert families >= {
        "hne_requests_total",
        "hne_request_duration_seconds",
        "hne_queue_duration_seconds",
        "hne_first_prediction_seconds",
        "hne_ensemble_size",
        "hne_ensemble_size_allowed",
        "hne_stops_total",
        "hne_deadline_missed_total",
        "hne_deadline_overrun_seconds",
        "hne_step_duration_seconds",
        "hne_step_batch_size",
        "hne_step_gap_seconds",
        "hne_flops_total",
        "hne_expected_accuracy",
        "hne_queue_depth",
        "hne_queue_limit",
        "hne_inflight_requests",
        "hne_slots",
        "hne_slots_limit",
        "hne_slots_memory_bytes",
        "hne_batch_limit",
        "hne_step_expected_seconds",
        "hne_step_straggle_ratio",
        "hne_rejections_total",
        "hne_front_lag_seconds",
        "hne_front_reserve_seconds",
        "hne_front_bearable_rate",
        "hne_model_info",
    }
    assert f'hne_model_info{{model="tiny",sha256="{package.sha256}",version="test"}} 1.0' in text


def test_answers_count_by_size_reason_and_expected_accuracy(recorder: Recorder, package: Package) -> None:
    recorder.answered(ensemble_size=1, stop_reason=StopReason.DEADLINE)
    recorder.answered(ensemble_size=16, stop_reason=StopReason.COMPLETE)
    value = recorder.registry.get_sample_value
    assert value("hne_stops_total", {"reason": "deadline"}) == 1
    assert [value("hne_ensemble_size_bucket", {"le": le}) for le in ("1.0", "15.0", "16.0")] == [1, 1, 2]
    table = package.manifest.table
    assert value("hne_expected_accuracy_sum") == pytest.approx(table[0].accuracy + table[15].accuracy)


def test_answers_count_by_how_late_they_are(recorder: Recorder) -> None:
    recorder.request(endpoint="/predict", outcome="answered", seconds=0.1, overrun=0.0)
    recorder.request(endpoint="/predict", outcome="answered", seconds=0.1, overrun=0.004)
    recorder.request(endpoint="/predict", outcome="deadline_missed", seconds=0.1, overrun=None)
    value = recorder.registry.get_sample_value
    counts = [value("hne_deadline_overrun_seconds_bucket", {"le": le}) for le in ("0.0", "0.002", "0.005", "+Inf")]
    assert counts == [1, 1, 2, 2]
    assert value("hne_request_duration_seconds_count") == 3


def test_steps_count_by_the_size_they_reach(recorder: Recorder) -> None:
    recorder.step(Segment(2), batch=8, seconds=0.004, flops=800)
    value = recorder.registry.get_sample_value
    assert value("hne_step_duration_seconds_sum", {"ensemble_size": "3", "width": "1"}) == pytest.approx(0.004)
    assert (value("hne_step_batch_size_sum"), value("hne_flops_total")) == (8, 800)


def test_refusals_count_by_reason_and_faults_do_not(recorder: Recorder) -> None:
    for error in (
        QueueFullError(1),
        StartingError(),
        DrainingError(),
        DrainingError(),
        RunnerError("00.onnx", "broke"),
    ):
        recorder.rejected(error)
    counts = {
        reason: recorder.registry.get_sample_value("hne_rejections_total", {"reason": reason})
        for reason in ("queue_full", "starting", "draining", "deadline")
    }
    assert counts == {"queue_full": 1, "starting": 1, "draining": 2, "deadline": 0}


def test_gauges_are_read_when_somebody_looks(package: Package) -> None:
    recorder, waiting = Recorder(package, CollectorRegistry()), [1, 2]
    recorder.watch(lambda: state(waiting=len(waiting), admitted=5))
    value = recorder.registry.get_sample_value
    assert (value("hne_queue_depth"), value("hne_slots")) == (2, 3)
    waiting.pop()
    assert (value("hne_queue_depth"), value("hne_slots"), value("hne_inflight_requests")) == (1, 4, 5)


def test_of_several_api_processes_the_worst_off_is_told(recorder: Recorder) -> None:
    value = recorder.registry.get_sample_value
    names = ("lag_seconds", "reserve_seconds", "bearable_rate")
    assert [value(f"hne_front_{name}") for name in names] == [0.01, 0.02, 600]


def test_limits_and_profile_are_told(recorder: Recorder) -> None:
    value = recorder.registry.get_sample_value
    assert (value("hne_queue_limit"), value("hne_slots_limit"), value("hne_batch_limit")) == (9, 8, 4)
    assert (value("hne_slots_memory_bytes"), value("hne_step_straggle_ratio")) == (1000, 1.5)
    assert value("hne_step_expected_seconds", {"ensemble_size": "1", "batch": "4"}) == 0.003


def test_two_services_do_not_share_figures(recorder: Recorder, package: Package) -> None:
    other = Recorder(package, CollectorRegistry())
    recorder.request(endpoint="/predict", outcome="failed", seconds=0.1, overrun=None)
    labels = {"endpoint": "/predict", "outcome": "failed"}
    assert recorder.registry.get_sample_value("hne_requests_total", labels) == 1
    assert other.registry.get_sample_value("hne_requests_total", labels) == 0


def test_every_kind_of_request_has_a_series_before_the_first(recorder: Recorder) -> None:
    """One that appears with its first event has no rate then, and an alert misses it."""
    found = {
        (sample.labels["endpoint"], sample.labels["outcome"]): sample.value
        for family in recorder.registry.collect()
        for sample in family.samples
        if sample.name == "hne_requests_total"
    }
    endpoints = {route.path for route in ROUTES if isinstance(route, Direct)}
    outcomes = {outcome_of(status) for status in (None, 200, 400, 401, 413, 415, 422, 499, 500, 503, 504)}
    assert found == dict.fromkeys(product(endpoints, outcomes), 0)
