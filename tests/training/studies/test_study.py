"""`hne-train study` as a user meets it: real runs of a tiny tree, killed, continued, shared and drawn again."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from model_core.package import digest
from tests.training.elsewhere import trained_elsewhere
from tests.training.studies.commands import study
from training.cli import main
from training.errors import ConfigError, DivergedError
from training.run_state import STATE_FILE, RunState
from training.studies.catalog import study_named
from training.studies.conduct import Conduct
from training.studies.study import Protocol
from training.trainer import Trainer


def protocol(images: Path) -> Protocol:
    """What `study` asks for."""
    changes = {"dataset": "folder", "data": images, "epochs": 2, "batch_size": 24, "precision": "float32"}
    return Protocol(changes=changes, architectures=("hne_tiny",))


@pytest.fixture(scope="module")
def place(image_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished Table 1, whose process was killed in the middle of the second run."""
    out = tmp_path_factory.mktemp("studies")
    words = [sys.executable, "-m", "training.cli", *study("table1", image_folder, out, "--save-minutes", "1e-9")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(words, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, env=environment)
    assert process.stderr is not None
    next(line for line in process.stderr if line.startswith("run 2 of 3"))
    next(line for line in process.stderr if line.startswith("training:"))
    process.send_signal(signal.SIGKILL)
    process.communicate()

    (place,) = out.iterdir()
    (first,) = (path.parent for path in place.glob("runs/*/evaluation.json"))
    before = (first / STATE_FILE).stat().st_mtime_ns, (first / "evaluation.json").stat().st_mtime_ns
    assert main(study("table1", image_folder, out)) == 0
    assert ((first / STATE_FILE).stat().st_mtime_ns, (first / "evaluation.json").stat().st_mtime_ns) == before
    assert len(list(place.glob("runs/*/evaluation.json"))) == 3
    return place


def test_a_killed_study_has_the_weights_of_one_that_was_not(place: Path, image_folder: Path, tmp_path: Path) -> None:
    assert main(study("table1", image_folder, tmp_path)) == 0
    for run in place.glob("runs/*"):
        (other,) = tmp_path.glob(f"*/runs/{run.name}")
        ours, theirs = (json.loads((path / "evaluation.json").read_text()) for path in (run, other))
        assert ours["sizes"] == theirs["sizes"]
        assert ours["leaf_accuracies"] == theirs["leaf_accuracies"]


def test_a_folder_that_holds_another_run_is_not_continued(
    place: Path, image_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    one, other = sorted(place.glob("runs/*-[is]-*"))
    folder = tmp_path / place.name / "runs" / one.name
    folder.mkdir(parents=True)
    shutil.copy(other / STATE_FILE, folder)
    assert main(study("table1", image_folder, tmp_path)) == 2
    assert f"{folder}: holds a run of other settings; move it away" in capsys.readouterr().err
    assert digest(folder / STATE_FILE) == digest(other / STATE_FILE)


def test_every_figure_names_its_record(place: Path) -> None:
    table = (place / "table1.md").read_text()
    content = json.loads((place / "table1.json").read_text())
    assert [line["training"] for line in content["lines"]] == ["$L_I$", "$L_S$", "$L_{HD}$"]
    for line in content["lines"]:
        (record,) = line["records"]
        folder = place / "runs" / record["run"]
        measured = json.loads((folder / "evaluation.json").read_text())
        assert record["run_sha256"] == digest(folder / STATE_FILE).sha256
        assert record["config_digest"].startswith(record["run"].rpartition("-")[2])
        assert f"`{record['run']}`" in table
        for size in (1, 2, 4, 8, 16):
            percent = 100 * measured["sizes"][size - 1]["accuracy"]
            assert line["sizes"][size - 1]["accuracy_percent"]["mean"] == pytest.approx(percent)
    assert "epochs 2 instead of 200" in table
    assert "hne_tiny instead of hne_small, hne" in table


def test_records_alone_are_enough_to_draw_and_give_the_same_files(
    place: Path, image_folder: Path, tmp_path: Path
) -> None:
    for run in place.glob("runs/*"):
        folder = tmp_path / place.name / "runs" / run.name
        folder.mkdir(parents=True)
        shutil.copy(run / "evaluation.json", folder)
    assert main(study("table1", image_folder, tmp_path, "--only-draw")) == 0
    for name in ("table1.md", "table1.json"):
        assert (tmp_path / place.name / name).read_bytes() == (place / name).read_bytes()


def test_an_unfinished_figure_is_drawn_from_shared_runs_and_says_so(
    place: Path, image_folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("figure3", "figure4", "figure6", "ablation"):
        assert main(study(name, image_folder, place.parent, "--only-draw", "--compare", "cifar10")) == 0
        first = (place / f"{name}.svg").read_bytes()
        assert main(study(name, image_folder, place.parent, "--only-draw", "--compare", "cifar10")) == 0
        assert (place / f"{name}.svg").read_bytes() == first
        with Image.open(place / f"{name}.png") as image:
            assert min(image.size) > 500
    assert "INCOMPLETE: 2 of 5 runs" in (place / "figure3.md").read_text()
    assert "figure3: 2 of 5 runs are finished; the same command continues" in capsys.readouterr().out


def test_a_time_limit_ends_a_study_between_two_steps(
    image_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(study("figure6", image_folder, tmp_path, "--max-minutes", "1e-9")) == 0
    assert "figure6: 0 of 1 runs are finished" in capsys.readouterr().out
    (state,) = tmp_path.glob(f"*/runs/*/{STATE_FILE}")
    assert RunState.load(state.parent).position[:2] == (0, 1)
    assert main(study("figure6", image_folder, tmp_path)) == 0
    assert state.with_name("evaluation.json").is_file()


def test_a_study_that_is_to_stop_begins_no_other_run(image_folder: Path, tmp_path: Path) -> None:
    runs = study_named("table1").runs(protocol(image_folder))
    conduct = Conduct(
        folder=tmp_path, command="hne-train", stop_requested=lambda: any(tmp_path.glob("*/evaluation.json"))
    )
    assert conduct.finish(runs) is None
    assert [path.name for path in tmp_path.iterdir()] == [runs[0].name]
    assert conduct.finish(runs) is None, "but one step of the next, so that a command always gets on"
    assert RunState.load(tmp_path / runs[1].name).position[:2] == (0, 1)


def test_a_grown_ensemble_starts_from_the_run_that_its_table_names(
    place: Path, image_folder: Path, tmp_path: Path
) -> None:
    copy = shutil.copytree(place, tmp_path / place.name)
    assert main(study("grown", image_folder, tmp_path)) == 0
    content = json.loads((copy / "grown.json").read_text())
    assert [line["training"] for line in content["lines"]] == [
        "Hierarchical distillation",
        "Grown from a single network",
    ]
    (record,) = content["lines"][1]["records"]
    single = record["settings"]["initial"]
    assert f"`{record['run']}`, from `{single}`" in (copy / "grown.md").read_text()
    assert (copy / "runs" / single / STATE_FILE).is_file()
    assert len(content["lines"][1]["sizes"]) == 16


def test_a_run_that_another_process_trains_is_left_to_it_and_so_is_what_needs_it(
    image_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(study("grown", image_folder, tmp_path, "--max-minutes", "1e-9")) == 0
    (first,) = tmp_path.glob("*/runs/*")
    assert RunState.load(first).config.loss == "hd"
    single = next(run for run in study_named("grown").runs(protocol(image_folder)) if run.config.loss == "i")
    with trained_elsewhere(first.with_name(single.name)):
        assert main(study("grown", image_folder, tmp_path)) == 0
    told = capsys.readouterr()
    assert f"{single.name}: is being trained by another process; going on with the next" in told.err
    assert f"it needs {single.name}, which is not finished; going on with the next" in told.err
    assert "grown: 1 of 3 runs are finished; the same command continues" in told.out
    assert main(study("grown", image_folder, tmp_path)) == 0
    assert "INCOMPLETE" not in capsys.readouterr().out


def test_a_record_without_weights_is_no_run_to_start_from(
    place: Path, image_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    copy = shutil.copytree(place, tmp_path / place.name)
    assert main(study("grown", image_folder, tmp_path)) == 0
    *_, single, grown = study_named("grown").runs(protocol(image_folder))
    (copy / "runs" / single.name / STATE_FILE).unlink()
    shutil.rmtree(copy / "runs" / grown.name)
    assert main(study("grown", image_folder, tmp_path)) == 0
    told = capsys.readouterr()
    assert f"it needs the weights of {single.name}, of which only the record is here; going on with" in told.err
    assert "grown: 2 of 3 runs are finished" in told.out


@pytest.mark.parametrize("kind", [DivergedError, ConfigError])
def test_a_run_that_fails_does_not_keep_the_others(
    image_folder: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    kind: type[Exception],
) -> None:
    def failing(self: Trainer) -> bool:
        if self.config.loss == "s":
            raise kind(f"{self.options.out}: failed at step 1")
        return trained(self)

    trained = Trainer.train
    monkeypatch.setattr(Trainer, "train", failing)
    assert main(study("table1", image_folder, tmp_path)) == 2
    told = capsys.readouterr()
    assert told.err.count("failed at step 1; going on with the next\n") == 1
    assert told.err.endswith("failed at step 1\n")
    assert len(list(tmp_path.glob("*/runs/*/evaluation.json"))) == 2
    assert len(list(tmp_path.glob("*/table1.md"))) == 1


def test_a_record_older_than_a_figure_leaves_that_out(place: Path, image_folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(place, tmp_path / place.name))
    for path in copy.glob("runs/*-i-*/evaluation.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"budgeted": []}))
    assert main(study("table1", image_folder, tmp_path, "--only-draw")) == 0
    lines = json.loads((copy / "table1.json").read_text())["lines"]
    assert [bool(line["budgeted"]) for line in lines] == [False, True, True]


@pytest.mark.parametrize(
    ("name", "flags", "fault"),
    [
        ("table1", ["--architectures", "hne_tiny,hne_tinny"], "hne_tinny"),
        ("table1", ["--seeds", "0,1,0"], "--seeds 0,1,0: a seed twice is one run"),
        ("readings", ["--student-temperature", "1"], "--student-temperature: the study readings decides that"),
    ],
    ids=["architecture", "seed", "decided"],
)
def test_a_mistake_is_told_before_anything_is_trained(
    image_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str, flags: list[str], fault: str
) -> None:
    assert main(study(name, image_folder, tmp_path, *flags)) == 2
    assert fault in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_nothing_to_draw_and_a_foreign_run_are_refused(
    place: Path, image_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(study("table1", image_folder, tmp_path, "--only-draw")) == 2
    assert "no run of table1 is finished; leave --only-draw out" in capsys.readouterr().err
    one, other = sorted(place.glob("runs/*"))[:2]
    foreign = tmp_path / place.name / "runs" / one.name
    foreign.mkdir(parents=True)
    shutil.copy(other / "evaluation.json", foreign)
    assert main(study("table1", image_folder, tmp_path, "--only-draw")) == 2
    assert "was measured with another loss; move the folder away" in capsys.readouterr().err
