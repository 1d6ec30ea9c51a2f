"""Closed loops against a real server whose model is certain at once: the full ensemble is what is asked for."""

import json
import shutil
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from benchmarks import concurrency
from benchmarks.client import Client
from benchmarks.concurrency import closed_loop
from benchmarks.exposition import mean_between, scraped
from benchmarks.front import closed_loops
from benchmarks.load import generator
from benchmarks.load.dialects import Predict
from benchmarks.load.remote import Remote
from benchmarks.served import served

FLAGS = ("--threads", "1", "--profile-seconds", "0.1", "--keep-profile", "false", "--runner", "cpu")


@pytest.fixture(scope="module")
def certain_package(tiny_package: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny package, but so cold that the best class has all the probability."""
    root = tmp_path_factory.mktemp("certain") / "tiny"
    shutil.copytree(tiny_package, root)
    manifest = json.loads((root / "manifest.json").read_text())
    for figures in manifest["table"]:
        figures["temperature"] = 1e-3
    (root / "manifest.json").write_text(json.dumps(manifest))
    return root


@pytest.fixture(scope="module")
def url(certain_package: Path) -> Iterator[str]:
    with served(certain_package, *FLAGS) as (url, _):
        yield url


@pytest.fixture
def encoded(images: list[tuple[str, bytes]]) -> list[bytes]:
    return [image for _, image in images]


def test_a_line_has_the_pace_the_size_and_the_batch_of_many_clients(url: str, encoded: list[bytes]) -> None:
    line = closed_loop(url, 10 * encoded, 16)
    assert (line["clients"], line["answered"], line["other"]) == (16, 80, 0)
    assert line["mean size"] == 16
    assert line["mean step batch"] > 1
    # Little's law: sixteen images per mean latency at most, and that is at least half the median.
    assert 0 < line["images/s"] <= 16 / (line["p50 ms"] / 1e3 / 2)
    assert 0 < line["p50 ms"] <= line["p99 ms"]


def test_one_client_shares_no_step(url: str, encoded: list[bytes]) -> None:
    line = closed_loop(url, encoded, 1)
    assert (line["answered"], line["mean size"], line["mean step batch"]) == (8, 16, 1)


def test_what_is_no_prediction_is_not_throughput(url: str, encoded: list[bytes]) -> None:
    line = closed_loop(url, [*encoded, b"no image"] * 2, 4)
    assert (line["answered"], line["other"], line["mean size"]) == (16, 2, 16)
    nothing = closed_loop(url, [b"no image"] * 8, 2)
    assert (nothing["answered"], nothing["other"], nothing["images/s"]) == (0, 8, 0)
    assert nothing["p50 ms"] is nothing["mean size"] is nothing["mean step batch"] is None


def test_the_report_has_a_line_for_every_number_of_clients(url: str, image_folder: Path, tmp_path: Path) -> None:
    output = tmp_path / "concurrency.json"
    concurrency.main(
        f"--url {url} --images {image_folder} --count 8 --clients 1 2 --repeats 2 --output {output}".split()
    )
    rows = json.loads(output.read_text())["rows"]
    assert [(line["clients"], line["answered"], line["mean size"]) for line in rows] == 2 * [(1, 8, 16), (2, 8, 16)]


@pytest.mark.parametrize("size", [3, 16])
def test_the_front_is_loaded_with_the_size_that_is_asked_for(url: str, encoded: list[bytes], size: int) -> None:
    answers = closed_loops(url, encoded, 16, 0.3, size)
    assert {(answer.status, answer.ensemble_size) for answer in answers} == {(200, size)}
    assert len(answers) >= 16


def test_capacity_is_that_of_the_full_ensemble(url: str, images: list[tuple[str, bytes]]) -> None:
    remote = Remote(url, images, Predict(options="top_k=1"))
    before = scraped(url)
    assert remote.capacity(0.3) > 0
    assert mean_between(before, scraped(url), "hne_ensemble_size") == 16


def test_who_is_certain_would_else_stop_while_others_wait(url: str, images: list[tuple[str, bytes]]) -> None:
    """What the tests above exclude does happen on this server."""
    before = scraped(url)
    with closing(Client(url)) as client:
        assert client.predict(images[0][1]).ensemble_size == 16  # nobody waits
    generator.closed_loop(url, images, Predict(), clients=16, seconds=0.3)
    mean = mean_between(before, scraped(url), "hne_ensemble_size")
    assert mean is not None
    assert mean < 15
