"""What other data or another network gave is not shown as this one's."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
from PIL import Image, ImageOps

from tests.packages import install, site
from tests.training.studies.commands import SETTINGS, study
from training.cli import main
from training.run_state import RunState

NETWORK = """
from torch import nn

from model_core.custom import replicated
from model_core.spec import ModelSpec

SPEC = ModelSpec(name="mine", family="mine", branching=(1, 2), classes=10, input_shape=(3, 16, 16))


def blocks(spec):
    head = lambda: nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, spec.classes))
    return replicated(spec, [lambda: nn.Conv2d(3, 4, 3), head])
"""


def another(images: Path, root: Path) -> Path:
    """A folder of the same name and classes, with as many images, upside down and as negatives."""
    folder = Path(shutil.copytree(images, root / images.name))
    for path in folder.glob("*/*/*.png"):
        with Image.open(path) as image:
            ImageOps.invert(ImageOps.flip(image)).save(path)
    return folder


def test_one_datasets_results_are_not_shown_as_anothers(
    image_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, other = tmp_path / "out", another(image_folder, tmp_path)
    assert main(study("figure6", image_folder, out)) == 0
    (table,) = out.glob("*/figure6.md")
    written = table.read_text()
    capsys.readouterr()
    assert main(study("figure6", other, out)) == 2
    told = capsys.readouterr()
    assert not told.out
    (fault,) = (line for line in told.err.splitlines() if line.startswith("hne-train:"))
    assert "evaluation.json: --data holds other data than it was trained on: preprocessing" in fault
    assert "instead of" in fault
    assert fault.endswith("choose another --out")
    assert table.read_text() == written

    assert main(study("figure6", tmp_path / "gone" / image_folder.name, out, "--only-draw")) == 0
    (record,) = out.glob("*/runs/*/evaluation.json")
    content = json.loads(record.read_text())
    del content["data"]
    record.write_text(json.dumps(content))
    assert main(study("figure6", other, out)) == 0, "a record of an earlier version does not tell"


def test_a_run_that_was_begun_on_other_data_is_not_continued(
    image_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert main(study("figure6", image_folder, out, "--max-minutes", "1e-9")) == 0
    assert main(study("figure6", another(image_folder, tmp_path), out)) == 2
    assert "--data holds other data than it was trained on: preprocessing" in capsys.readouterr().err


def test_datasets_have_folders_of_their_own_in_any_script(image_folder: Path, tmp_path: Path) -> None:
    for name in ("猫", "Собаки 2", "+"):
        images = Path(shutil.copytree(image_folder, tmp_path / "sets" / name))
        assert main(study("figure6", images, tmp_path / "out", "--max-minutes", "1e-9")) == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"猫", "собаки-2", "folder"}


def test_a_network_that_was_edited_has_none_of_the_results_of_what_it_was(
    image_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    module = tmp_path / "site" / "mypackage.py"
    declared = {
        "hne_serve.architectures": {"mine": "mypackage:SPEC"},
        "hne_serve.families": {"mine": "mypackage:blocks"},
    }
    install(module.parent, "mypackage", {module.name: NETWORK}, declared)
    finished, begun = (study("figure6", image_folder, tmp_path / name) for name in ("finished", "begun"))
    run = ["train", *finished[2:6], "--out", str(tmp_path / "run"), *SETTINGS.split()]
    for words in (finished, begun, run):
        words[words.index("hne_tiny")] = "mine"
    begun += ["--max-minutes", "1e-9"]
    with site(module.parent):
        assert main(finished) == main(begun) == main([*run, "--max-minutes", "1e-9"]) == 0

    module.write_text(NETWORK.replace("(1, 2)", "(1, 2 * 2)"))
    capsys.readouterr()
    with site(module.parent):
        for words in (finished, [*finished, "--only-draw"], begun):
            assert main(words) == 2
            told = capsys.readouterr()
            assert "the network mine has changed since: branching (1, 4) instead of (1, 2); move" in told.err
            assert not told.out
        assert main(["train", "--resume", *run[run.index("--out") :][:2]]) == 0, "it remembers its own"
        assert RunState.load(tmp_path / "run").model.tree.leaves == 2

    module.write_text(NETWORK.replace('name="mine"', 'name="renamed"'))
    (record,) = (tmp_path / "finished").glob("*/runs/*/evaluation.json")
    with site(module.parent):
        assert main(finished) == 0, "the same network by another name"
    content = json.loads(record.read_text())
    del content["spec"]
    record.write_text(json.dumps(content))
    module.write_text(NETWORK.replace("(1, 2)", "(1,    4)"))
    with site(module.parent):
        assert main(finished) == 0, "a record of an earlier version does not tell"
