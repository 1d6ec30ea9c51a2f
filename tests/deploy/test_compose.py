"""The containers agree with each other on names, ports and paths."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import yaml

from deploy.grafana.check_queries import DASHBOARD
from service.settings import Settings

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text()


def parsed(path: str) -> dict[str, Any]:
    content = yaml.safe_load((ROOT / path).read_text())
    assert isinstance(content, dict)
    return content


SERVICES: dict[str, dict[str, Any]] = parsed("docker-compose.yml")["services"]
DATASOURCE = parsed("deploy/grafana/provisioning/datasources/prometheus.yml")["datasources"][0]


def container_port(service: str) -> int:
    return int(SERVICES[service]["ports"][0].rsplit(":", 1)[1])


@pytest.mark.parametrize("name", SERVICES)
def test_published_on_the_loopback_address_only(name: str) -> None:
    assert all(port.startswith("127.0.0.1:") for port in SERVICES[name].get("ports", []))


@pytest.mark.parametrize("name", SERVICES)
def test_mounted_paths_exist(name: str) -> None:
    for volume in SERVICES[name].get("volumes", []):
        source = volume.split(":")[0]
        assert source in parsed("docker-compose.yml")["volumes"] or (ROOT / source).exists()


def test_images_are_pinned() -> None:
    assert all(re.search(r":(cpu|gpu|v?\d+\.\d+\.\d+)$", service["image"]) for service in SERVICES.values())


def test_build_targets_are_stages_and_cpu_is_the_default() -> None:
    stages = re.findall(r"^FROM \S+ AS (\S+)$", DOCKERFILE, re.MULTILINE)
    assert stages[-1] == SERVICES["hne"]["build"]["target"] == "cpu"
    assert SERVICES["hne-gpu"]["build"]["target"] in stages


def test_a_plain_up_needs_no_gpu() -> None:
    assert "profiles" not in SERVICES["hne"]
    assert "deploy" not in SERVICES["hne"]
    assert SERVICES["hne-gpu"]["profiles"] == ["gpu"]


def test_a_setting_of_the_host_is_one_of_the_service_and_an_image_keeps_its_own() -> None:
    fixed = {"HNE_HOST", "HNE_PORT", "HNE_MODEL", "HNE_RUNNER"}
    settings = {f"HNE_{name.upper()}" for name in Settings.model_fields} - fixed
    assert set(SERVICES["hne"]["environment"]) == set(SERVICES["hne-gpu"]["environment"]) == settings
    assert not any(SERVICES["hne"]["environment"].values())
    (stage,) = re.findall(r"^FROM runtime AS gpu\n(.*?)^FROM", DOCKERFILE, re.MULTILINE | re.DOTALL)
    own = {name: value for name, value in re.findall(r"(HNE_\w+)=(\w+)", stage) if name not in fixed}
    given = {name: value for name, value in SERVICES["hne-gpu"]["environment"].items() if value is not None}
    assert given == {name: f"${{{name}:-{value}}}" for name, value in own.items()}


def test_prometheus_scrapes_the_service_where_it_listens() -> None:
    jobs = {job["job_name"]: job for job in parsed("deploy/prometheus/prometheus.yml")["scrape_configs"]}
    host, port = jobs["hne"]["static_configs"][0]["targets"][0].split(":")
    assert host in SERVICES
    assert host in SERVICES["hne-gpu"]["networks"]["default"]["aliases"]
    assert int(port) == container_port(host)
    assert f"HNE_PORT={port}" in DOCKERFILE
    assert f"EXPOSE {port}" in DOCKERFILE


def test_rule_files_lie_beside_the_configuration() -> None:
    for name in parsed("deploy/prometheus/prometheus.yml")["rule_files"]:
        assert (ROOT / "deploy/prometheus" / name).is_file()


def test_grafana_finds_prometheus() -> None:
    url = urlsplit(DATASOURCE["url"])
    assert url.hostname in SERVICES
    assert url.port == container_port(url.hostname)


def test_every_panel_reads_the_provisioned_datasource() -> None:
    panels = json.loads(DASHBOARD.read_text())["panels"]
    assert {source["datasource"]["uid"] for panel in panels for source in (panel, *panel["targets"])} == {
        DATASOURCE["uid"]
    }


def test_dashboard_is_mounted_where_grafana_looks() -> None:
    mounts = dict(volume.split(":")[:2][::-1] for volume in SERVICES["grafana"]["volumes"])
    provider = parsed("deploy/grafana/provisioning/dashboards/hne.yml")["providers"][0]
    folder = ROOT / mounts[provider["options"]["path"]]
    home = Path(SERVICES["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"])
    assert home.parent == Path(provider["options"]["path"])
    assert (folder / home.name).is_file()
