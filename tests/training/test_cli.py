"""`hne-train` as a user meets it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import fields
from pathlib import Path

import pytest

from model_core.package import Package
from model_core.zoo import ARCHITECTURES
from tests.training.elsewhere import trained_elsewhere
from training.cli import main
from training.config import TrainConfig, settings
from training.run_state import STATE_FILE, RunState


def train_arguments(folder: Path, out: Path) -> list[str]:
    return (
        f"train --architecture hne_tiny --branching 1,1,1,1,2 --dataset folder --data {folder} --epochs 3 "
        f"--batch-size 6 --precision float32 --device cpu --threads 1 --out {out}"
    ).split()


@pytest.fixture(scope="module")
def run(image_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a trained and evaluated run."""
    out = tmp_path_factory.mktemp("cli") / "run"
    assert main(train_arguments(image_folder, out)) == 0
    assert main(["evaluate", f"--run={out}", "--data", str(image_folder)]) == 0
    return out


def test_train_evaluate_export(
    run: Path, image_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    figures = json.loads((run / "evaluation.json").read_text())
    assert figures["evaluated_on"].startswith("24 test images of images")
    assert figures["settings"]["epochs"] == 3
    assert "data" not in figures["settings"]
    assert figures["command"] == f"hne-train evaluate --run=run --data {image_folder.name}", "not where folders lie"
    assert (run / "evaluation.svg").is_file()
    assert (run / "evaluation.png").is_file()

    assert main(["export", "--run", str(run), "--out", str(tmp_path / "package"), "--version", "7"]) == 0
    manifest = Package.load(tmp_path / "package").manifest
    assert (manifest.name, manifest.version) == ("hne-tiny", "7")
    assert manifest.class_names == ("blue", "green", "red")
    assert [row.accuracy for row in manifest.table] == [row["accuracy"] for row in figures["sizes"]]
    assert "sha256" in capsys.readouterr().out


def test_figures_of_other_weights_are_not_exported(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in (STATE_FILE, "evaluation.json"):
        (tmp_path / name).write_bytes((run / name).read_bytes())
    state = RunState.load(tmp_path)
    next(state.model.parameters()).data.add_(1)
    state.save(tmp_path)
    assert main(["export", "--run", str(tmp_path), "--out", str(tmp_path / "package")]) == 2
    assert "run `hne-train evaluate` again" in capsys.readouterr().err
    assert not (tmp_path / "package").exists()


def test_a_run_is_not_overwritten(run: Path, image_folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (run / STATE_FILE).read_bytes()
    assert main(train_arguments(image_folder, run)) == 2
    assert "continue it with --resume, or choose another --out" in capsys.readouterr().err
    assert (run / STATE_FILE).read_bytes() == before


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("train --architecture resnet50 --out {tmp}/run", "unknown architecture 'resnet50'; known: hne, hne_small"),
        ("train --dataset folder --data {tmp}/none --out {tmp}/run", "{tmp}/none does not hold an image dataset"),
        ("train --alpha 2 --out {tmp}/run", "--alpha 2.0: must lie in 0..1"),
        ("train --alpha 0.3 --loss s --out {tmp}/run", "--alpha 0.3: needs --loss d or hd"),
        ("train --student-temperature 1 --loss i --out {tmp}/run", "--student-temperature 1.0: needs --loss d or hd"),
        ("train --prefixes all --loss i --out {tmp}/run", "--prefixes all: needs --loss s, hd or boosted"),
        ("train --teacher-weight 0.3 --out {tmp}/run", "--teacher-weight 0.3: needs --teacher"),
        ("train --mix-share 0.3 --out {tmp}/run", "--mix-share 0.3: needs --mix"),
        ("train --device tpu --out {tmp}/run", "--device tpu: not usable here"),
        ("train --branching 1,1,1,1,1 --out {tmp}/run", "--loss hd: a single network has no smaller ensembles"),
        ("train --swa 1 --lr 0.2 --out {tmp}/run", "--lr 0.2: does nothing with --swa 1"),
        ("train --branching 1,2 --out {tmp}/run", "hne_small: 5 blocks of rows, but 2 branching factors"),
        ("train --branching 1,0,2,2,2 --out {tmp}/run", "hne_small: branching factors must be one positive number"),
        ("train --dataset folder --data {tmp}/none --out {tmp}/file", "{tmp}/file: cannot hold a run (File exists)"),
        ("train --dataset folder --data {tmp}/none --out {tmp}/file/run", "{tmp}/file/run: cannot hold a run (Not a"),
        ("train --resume --out {tmp}/none", "{tmp}/none/run.safetensors: does not exist; leave --resume out"),
        ("evaluate --run {tmp}", "{tmp}/run.safetensors: does not exist"),
        ("export --run {tmp} --out {tmp}/package", "run `hne-train evaluate` first"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    arguments: str, message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    assert main(arguments.format(tmp=tmp_path).split()) == 2
    error = capsys.readouterr().err
    assert error.startswith("hne-train: ")
    assert message.format(tmp=tmp_path) in error
    assert error.count("\n") == 1


def test_a_folder_that_cannot_be_written_is_one_line_and_exit_code_2(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(run, tmp_path / "run")
    (tmp_path / "run" / "evaluation.svg").unlink()
    (tmp_path / "run" / "evaluation.svg").mkdir()
    assert main(["evaluate", "--run", str(tmp_path / "run")]) == 2
    assert capsys.readouterr().err.endswith(f"hne-train: [Errno 21] Is a directory: '{tmp_path}/run/evaluation.svg'\n")


def test_a_run_is_trained_by_one_process_at_a_time(
    run: Path, image_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with trained_elsewhere(run):
        assert main(["train", "--resume", "--out", str(run)]) == 2
        assert f"{run}: is being trained by another process" in capsys.readouterr().err
        assert main(["evaluate", "--run", str(run)]) == 0
    assert main(["train", "--resume", "--out", str(run)]) == 0, "its lock has gone with it"


@pytest.mark.parametrize("arguments", ["", "train", "train --out x --epochs many", "train --out x --branching 1;2"])
def test_malformed_commands_show_the_usage(arguments: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(arguments.split())
    assert caught.value.code == 2
    assert "usage: hne-train" in capsys.readouterr().err


def test_help_names_every_setting_and_the_papers_defaults(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")  # no flag is broken over two lines
    with pytest.raises(SystemExit) as caught:
        main(["train", "--help"])
    assert caught.value.code == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "--weight-decay WEIGHT_DECAY L2 penalty (default: 5e-4; ImageNet 1e-5)" in text
    assert f"--architecture ARCHITECTURE architecture: {', '.join(ARCHITECTURES)} (default: hne_small)" in text
    for item in fields(TrainConfig):
        flag = f"--{item.name.replace('_', '-')} "
        assert (flag in text) == settings()[item.name].flag, flag


def test_sigterm_saves_and_a_killed_run_resumes_to_the_same_weights(
    run: Path, image_folder: Path, tmp_path: Path
) -> None:
    """The real process: stopped by SIGTERM once, killed without warning once, then finished."""
    command = [sys.executable, "-m", "training.cli", *train_arguments(image_folder, tmp_path), "--save-minutes", "1e-9"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}

    def start(command: list[str]) -> subprocess.Popen[str]:
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
        assert process.stderr is not None
        next(line for line in process.stderr if line.startswith("training:"))  # the progress bar is there
        return process

    stopped = start(command)
    stopped.send_signal(signal.SIGTERM)
    stopped.communicate()
    assert stopped.returncode == 128 + signal.SIGTERM
    resumed = [sys.executable, "-m", "training.cli", "train", "--resume", "--out", str(tmp_path)]
    killed = start(resumed)
    killed.kill()
    killed.communicate()
    assert main(["train", "--resume", "--out", str(tmp_path)]) == 0
    finished, uninterrupted = RunState.load(tmp_path), RunState.load(run)
    assert finished.position[:2] == (3, 0)
    weights = uninterrupted.model.state_dict()
    for name, tensor in finished.model.state_dict().items():
        assert tensor.equal(weights[name]), name
