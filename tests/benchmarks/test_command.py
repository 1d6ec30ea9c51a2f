"""What the benchmarks' flags may be, and how a run ends that cannot go on."""

from __future__ import annotations

import argparse
import http.client
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from math import inf
from pathlib import Path

import pytest

from benchmarks.command import (
    add_output,
    arguments,
    deadline,
    not_negative,
    positive_float,
    positive_int,
    run,
    service_url,
    share,
)


@pytest.mark.parametrize(
    ("kind", "text", "value"),
    [
        (positive_int, "1", 1),
        (positive_float, "0.5", 0.5),
        (deadline, "inf", inf),
        (deadline, "30", 30.0),
        (not_negative, "0", 0.0),
        (share, "0", 0.0),
        (share, "1", 1.0),
        (service_url, "http://127.0.0.1:8000/", "http://127.0.0.1:8000"),
        (service_url, "http://[::1]:8000", "http://[::1]:8000"),
    ],
)
def test_what_can_be_measured_is_taken(kind: Callable[[str], object], text: str, value: object) -> None:
    assert kind(text) == value


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        *((positive_int, text) for text in ("0", "-1", "1.5", "many")),
        *((positive_float, text) for text in ("0", "-1", "inf", "nan", "much")),
        *((deadline, text) for text in ("0", "-inf", "nan")),
        (not_negative, "-1"),
        *((share, text) for text in ("-0.1", "1.1", "nan")),
        *(
            (service_url, text)
            for text in ("127.0.0.1:8000", "http://", "http://h:port", "https://h", "h", "http://h:0")
        ),
    ],
)
def test_what_cannot_be_measured_is_refused_with_its_flag(
    kind: Callable[[str], object], text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--flag", type=kind)
    with pytest.raises(SystemExit):
        parser.parse_args([f"--flag={text}"])
    assert "argument --flag: " in capsys.readouterr().err


def test_the_place_of_the_report_is_made_before_anything_is_measured(tmp_path: Path) -> None:
    output = tmp_path / "new" / "run.json"
    parser = argparse.ArgumentParser()
    add_output(parser, "run.json")
    assert parser.parse_args([f"--output={output}"]).output == output
    assert output.parent.is_dir()
    assert not output.exists()


@pytest.mark.parametrize("name", [".", "file/run.json"], ids=["a folder", "below a file"])
def test_a_place_where_no_report_can_be_is_refused(
    tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(SystemExit):
        arguments(None, images=1, results="run.json").parse_args([f"--output={tmp_path / name}", "--images=x"])
    assert "argument --output: " in capsys.readouterr().err


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ConnectionRefusedError(111, "Connection refused"), "^the service does not answer: "),
        (http.client.RemoteDisconnected("gone"), "^the service does not answer: "),
        (TimeoutError("timed out"), "^the service does not answer: "),
        (OSError(28, "No space left on device"), "No space left on device$"),
        (KeyboardInterrupt(), "^130$"),
    ],
)
def test_one_line_says_why_a_run_cannot_go_on(error: BaseException, message: str) -> None:
    def main() -> None:
        raise error

    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(SystemExit, match=message):
        run(main)
    assert signal.getsignal(signal.SIGTERM) == before


SERVED = """
import json, sys, time
from pathlib import Path
from benchmarks.command import run
from benchmarks.served import served

def main():
    with served(Path(sys.argv[1])) as (url, process):
        print(json.dumps(process.pid), flush=True)
        time.sleep(600)

run(main)
"""


def test_a_benchmark_that_is_told_to_end_leaves_no_server(tiny_package: Path) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", SERVED, str(tiny_package)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        server = json.loads(process.stdout.readline())
        process.terminate()
        assert process.wait() == 1
    with pytest.raises(ProcessLookupError):
        os.kill(server, 0)
