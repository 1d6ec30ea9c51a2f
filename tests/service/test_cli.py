"""The command line: wrong settings end it at once, with one line that says what to do."""

from __future__ import annotations

import socket
from pathlib import Path

import pytest

from service.cli import main


@pytest.mark.parametrize(
    ("arguments", "fault"),
    [
        (["--port", "http"], "--port or HNE_PORT"),
        (["--model", "/nonexistent"], "manifest.json: cannot be read"),
        (["--max-batch", "0"], "--max-batch or HNE_MAX_BATCH"),
        (["--host", ""], "--host or HNE_HOST"),
    ],
)
def test_wrong_settings_end_it_with_one_line(
    capsys: pytest.CaptureFixture[str], arguments: list[str], fault: str
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("hne-serve: ")
    assert fault in line


@pytest.mark.parametrize("processes", ["0", "1"])
@pytest.mark.parametrize("policy", ["xyz", "fixed:17"])
def test_a_policy_that_there_is_not_ends_it_with_one_line(
    capsys: pytest.CaptureFixture[str], tiny_package: Path, policy: str, processes: str
) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--model", str(tiny_package), "--port", "0", "--api-processes", processes, "--policy", policy])
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert repr(policy) in line


@pytest.mark.parametrize("processes", ["0", "1"])
def test_a_port_that_is_taken_ends_it_with_one_line(
    capsys: pytest.CaptureFixture[str], tiny_package: Path, processes: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = str(other.getsockname()[1])
        with pytest.raises(SystemExit) as stop:
            main(["--model", str(tiny_package), "--port", port, "--api-processes", processes])
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"hne-serve: cannot listen on 127.0.0.1, port {port}: ")
    assert "HNE_PORT" in line


def test_a_broken_step_ends_it_with_one_line_beside_the_log(
    capsys: pytest.CaptureFixture[str], tiny_package: Path, tmp_path: Path
) -> None:
    import json
    import shutil

    from model_core.package import digest

    broken = shutil.copytree(tiny_package, tmp_path / "broken")
    (broken / "steps" / "05.onnx").write_bytes(b"no graph")
    manifest = json.loads((broken / "manifest.json").read_text())
    manifest["files"]["steps/05.onnx"] = digest(broken / "steps" / "05.onnx").model_dump()
    (broken / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(SystemExit) as stop:
        main(["--model", str(broken), "--port", "0"])
    assert stop.value.code == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("hne-serve: ")
    assert "05.onnx" in line
