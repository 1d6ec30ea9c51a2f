"""The soak: what it would notice, and a short one."""

import asyncio
import json
import os
import threading
from pathlib import Path

import numpy as np
import pytest

from benchmarks import soak
from benchmarks.load.outcomes import Outcome
from benchmarks.load.plan import arrivals
from benchmarks.load.rude import RudeReport, be_rude
from benchmarks.served import served
from benchmarks.soak import bursts, growth, resident_bytes, taken_up_by


def test_bursts_come_in_every_minute() -> None:
    counts, _ = np.histogram(
        arrivals(bursts(10.0, 150.0, length=6.0), np.random.default_rng(0)), bins=[0, 27, 33, 87, 93, 132, 138, 150]
    )
    assert counts == pytest.approx([270, 600, 540, 600, 390, 600, 120], rel=0.25)


def test_memory_that_grows_is_told_from_memory_that_wavers() -> None:
    times = np.arange(100.0)
    wavering = list(zip(times, (1e8 + 1e6 * np.sin(times)).astype(int), strict=True))
    grown, size = growth(wavering)
    assert abs(grown) < 1e6
    assert size == pytest.approx(1e8, rel=0.01)
    grown, _ = growth([(at, int(value + 1e5 * at)) for at, value in wavering])
    assert grown == pytest.approx(49e5, rel=0.2)


def test_what_a_busy_server_has_not_read_is_not_taken_up() -> None:
    def sent(at: float, took: float) -> Outcome:
        return Outcome(intended=at, sent=at, answered=at + took, deadline=1.0, status=200)

    idle = [sent(0.1 * index, 0.01) for index in range(20)]
    assert len(taken_up_by(1.05, idle)) == 10  # all but the last tenth of a second
    assert len(taken_up_by(1.05, [sent(0.0, 0.5), *idle[1:]])) == 6
    assert len(taken_up_by(1.05, [sent(0.97, 0.5), *idle])) == 10  # answered too late to tell
    assert len(taken_up_by(1.05, [sent(-9.0, 3.0), *idle])) == 11  # and so long before that it tells nothing


def test_memory_is_that_of_the_process() -> None:
    block = np.ones(2**23)  # 64 MiB
    assert resident_bytes(os.getpid()) > block.nbytes


def test_rude_clients_get_their_end_too(tiny_package: Path, images: list[tuple[str, bytes]]) -> None:
    report = RudeReport()
    with served(
        tiny_package, "--threads", "1", "--profile-seconds", "0.1", "--keep-profile", "false", "--runner", "cpu"
    ) as (url, _):
        asyncio.run(be_rude(url, images, report, lambda: len(report.statuses) == 3, each=1, seed=0))
    assert report.faults == []
    assert set(report.requests) == {"stalled reader", "left mid-stream", "trickling upload"}
    assert report.statuses["trickling upload: 504"] == report.requests["trickling upload"]
    assert report.statuses.total() == report.requests.total()


def test_a_silent_end_is_a_fault(images: list[tuple[str, bytes]]) -> None:
    report = RudeReport()

    async def scenario() -> None:
        server = await asyncio.start_server(lambda _, writer: writer.close(), "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        async with server:
            await be_rude(f"http://127.0.0.1:{port}", images, report, lambda: len(report.faults) > 2, each=1, seed=0)

    asyncio.run(scenario())
    assert len(report.faults) == report.requests.total() > 2
    assert not report.statuses


def test_a_short_soak_finds_nothing(tiny_package: Path, image_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(SystemExit) as end:
        soak.main(
            f"--model {tiny_package} --images {image_folder} --count 8 --minutes 0.04 --burst 0.5 --rude 1 "
            f"--calibration 0.3 --output {tmp_path / 'soak.json'} "
            "--flags --threads 1 --runner cpu --profile-seconds 0.1 --keep-profile false --max-active 8".split()
        )
    report = json.loads((tmp_path / "soak.json").read_text())
    assert report["violations"] == []
    assert end.value.code == 0
    assert report["rows"][0]["sent before SIGTERM"] > 0


def test_a_server_that_dies_is_reported(
    tiny_package: Path, images: list[tuple[str, bytes]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = soak.options_of(
        f"--images {tmp_path} --minutes 0.05 --burst 0.2 --rude 1 --calibration 0.2 "
        f"--output {tmp_path / 'soak.json'}".split()
    )
    with served(
        *(tiny_package, "--threads", "1", "--profile-seconds", "0.1", "--keep-profile", "false", "--runner", "cpu")
    ) as (url, process):
        case = soak.Soak(url, process, images, options)
        crash = threading.Timer(1.5, process.kill)
        crash.start()
        soak.conduct(case, options)
    report = json.loads((tmp_path / "soak.json").read_text())
    (row,) = report["rows"]
    assert row["delivered"] > 0
    assert row["lost"] > 0
    said = capsys.readouterr()
    assert "memory MiB" in said.out
    for violation in (
        "predictions have no end",
        "does not tell its metrics after the load",
        "the server ended with status -9",
    ):
        assert any(violation in found for found in report["violations"])
        assert violation in said.err


def test_a_soak_of_classes_that_the_model_does_not_know_does_not_begin(
    tiny_package: Path, image_folder: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    (folder / "wolf").symlink_to(image_folder / "class 1")
    flags = "--flags --threads 1 --runner cpu --profile-seconds 0.1 --keep-profile false"
    with pytest.raises(SystemExit, match="does not know the classes 'wolf'"):
        soak.main(f"--model {tiny_package} --images {folder} --count 2 --output {tmp_path / 'no.json'} {flags}".split())
    assert not (tmp_path / "no.json").exists()
