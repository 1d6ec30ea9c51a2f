"""Dashboard and rules ask only for what the service exports, by names and labels."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from prometheus_client import CollectorRegistry

from deploy.grafana.check_queries import DASHBOARD, queries
from model_core.package import Package
from model_core.tree import Segment
from service.errors import DrainingError
from service.front import outcome_of
from service.metrics import Recorder
from service.request import StopReason
from service.state import FrontState
from tests.service.states import state

ROOT = Path(__file__).parents[2]
METRIC = re.compile(r"\b(?:hne_\w+|up)\b")
GROUPS: list[dict[str, Any]] = yaml.safe_load((ROOT / "deploy/prometheus/rules.yml").read_text())["groups"]
RULES_TEST = ROOT / "deploy/prometheus/rules_test.yml"
RULES = [rule for group in GROUPS for rule in group["rules"]]


@pytest.fixture(scope="module")
def exported(tiny_package: Path) -> dict[str, set[str]]:
    """Every series that the service exports once each kind of thing happened: metric name to label names."""
    package = Package.load(tiny_package)
    recorder = Recorder(package, CollectorRegistry())
    recorder.watch(state)
    recorder.watch_front(FrontState)
    recorder.step(Segment(0), batch=1, seconds=0.0, flops=1)
    recorder.answered(ensemble_size=1, stop_reason=StopReason.COMPLETE)
    recorder.rejected(DrainingError())
    recorder.request(endpoint="/predict", outcome="answered", seconds=0.0, overrun=0.0)
    names: dict[str, set[str]] = {"up": {"job", "instance"}}
    for family in recorder.registry.collect():
        for sample in family.samples:
            names.setdefault(sample.name, set()).update(sample.labels)
    return names


def expressions() -> list[str]:
    return [query.expression for query in queries()] + [rule["expr"] for rule in RULES]


@pytest.mark.parametrize("expression", dict.fromkeys(expressions()))
def test_expression_asks_for_exported_metrics(expression: str, exported: dict[str, set[str]]) -> None:
    recorded = {rule["record"] for rule in RULES if "record" in rule}
    names = set(METRIC.findall(re.sub(r"\bhne(:\w+)+", "", expression)))
    assert names <= exported.keys()
    assert set(re.findall(r"\bhne:[\w:]+", expression)) <= recorded
    labels = set().union(*(exported[name] for name in names))
    grouped = {label.strip() for by in re.findall(r"\bby \(([^)]*)\)", expression) for label in by.split(",")}
    assert grouped | set(re.findall(r"(\w+)=~?\"", expression)) <= labels


def test_what_is_alerted_of_is_how_the_service_counts_faults_and_refusals() -> None:
    def named(record: str) -> set[str]:
        (rule,) = (rule for rule in RULES if rule.get("record") == record)
        return set("|".join(re.findall(r"outcome=~?\"([^\"]+)\"", rule["expr"])).split("|"))

    assert named("hne:requests_unserved:ratio5m") == {outcome_of(500), outcome_of(503)}
    left_out = {text for rule in RULES for text in re.findall(r"outcome!=\"([^\"]+)\"", rule["expr"])}
    assert left_out == {outcome_of(status) for status in (400, 401, 413, 415, 422)}


def test_bucket_that_stands_for_on_time_exists(tiny_package: Path) -> None:
    recorder = Recorder(Package.load(tiny_package), CollectorRegistry())
    asked = {le for query in queries() for le in re.findall(r"le=\"([^\"]+)\"", query.expression)}
    for bound in asked:
        assert recorder.registry.get_sample_value("hne_deadline_overrun_seconds_bucket", {"le": bound}) == 0


def test_dashboard_shows_every_metric(exported: dict[str, set[str]]) -> None:
    shown = {re.sub(r"_(bucket|sum|count)$", "", name) for q in queries() for name in METRIC.findall(q.expression)}
    kinds = {re.sub(r"_(bucket|sum|count)$", "", name) for name in exported if not name.endswith("_created")}
    assert kinds - {"up"} == shown


def test_panels_are_told_apart_and_do_not_overlap() -> None:
    panels = json.loads(DASHBOARD.read_text())["panels"]
    assert len({panel["id"] for panel in panels}) == len(panels)
    cells = [
        (panel["gridPos"]["x"] + column, panel["gridPos"]["y"] + row)
        for panel in panels
        for column in range(panel["gridPos"]["w"])
        for row in range(panel["gridPos"]["h"])
    ]
    assert len(set(cells)) == len(cells)
    assert max(x for x, _ in cells) < 24


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool, which comes with Prometheus, is not installed")
def test_alerts_fire_for_what_they_are_meant_for_and_for_nothing_else() -> None:
    ran = subprocess.run(["promtool", "test", "rules", RULES_TEST], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool, which comes with Prometheus, is not installed")
@pytest.mark.parametrize(
    ("answered", "early", "missed", "on_time"),
    [(100, 100, 0, 1), (100, 50, 0, 0.5), (50, 50, 50, 0.5), (0, 0, 100, 0), (50, 25, 50, 0.25)],
)
def test_what_the_dashboard_calls_on_time(
    answered: int, early: int, missed: int, on_time: float, tmp_path: Path
) -> None:
    (expression,) = {query.expression for query in queries() if query.panel == "On time"}
    series = {
        'hne_stops_total{reason="complete"}': answered,
        "hne_deadline_missed_total": missed,
        'hne_deadline_overrun_seconds_bucket{le="0.005"}': early,
        "hne_deadline_overrun_seconds_count": answered,
    }
    case = {
        "interval": "15s",
        "input_series": [{"series": name, "values": f"0+{step}x20"} for name, step in series.items()],
        "promql_expr_test": [
            {
                "expr": expression.replace("$__rate_interval", "1m"),
                "eval_time": "4m",
                "exp_samples": [{"labels": "{}", "value": on_time}],
            }
        ],
    }
    file = tmp_path / "on-time.yml"
    file.write_text(yaml.safe_dump({"evaluation_interval": "15s", "tests": [case]}))
    ran = subprocess.run(["promtool", "test", "rules", file], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_every_alert_is_tested_both_ways() -> None:
    tests = yaml.safe_load(RULES_TEST.read_text())["tests"]
    cases = [case for test in tests for case in test.get("alert_rule_test", ())]
    alerts = {rule["alert"] for rule in RULES if "alert" in rule}
    assert {case["alertname"] for case in cases if case.get("exp_alerts")} == alerts
    assert {case["alertname"] for case in cases if not case.get("exp_alerts")} == alerts
