"""Tables of networks whose ensembles are of other sizes than the paper's."""

from __future__ import annotations

from pathlib import Path

from tests.packages import install, site
from training.cli import main

NETWORK = """
from torch import nn

from model_core.custom import replicated
from model_core.spec import ModelSpec

SPEC = ModelSpec(name="six", family="six", branching=(2, 3), classes=10, input_shape=(3, 16, 16))


def blocks(spec):
    head = lambda: nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, spec.classes))
    return replicated(spec, [lambda: nn.Conv2d(3, 4, 3), head])
"""
SETTINGS = "--dataset folder --epochs 1 --batch-size 24 --precision float32 --device cpu --threads 1"


def test_every_networks_full_ensemble_has_a_column_and_the_papers_figures_stay_in_theirs(
    image_folder: Path, tmp_path: Path
) -> None:
    declared = {"hne_serve.architectures": {"six": "mypackage:SPEC"}, "hne_serve.families": {"six": "mypackage:blocks"}}
    install(tmp_path / "site", "mypackage", {"mypackage.py": NETWORK}, declared)
    words = f"study figure6 --architectures six,hne_small --compare cifar10 --data {image_folder} {SETTINGS}"
    with site(tmp_path / "site"):
        assert main([*words.split(), "--out", str(tmp_path / "out")]) == 0
    (table,) = tmp_path.glob("out/*/figure6.md")
    head, _, six, small, paper = (
        [cell.strip() for cell in line.strip("|").split("|")]
        for line in table.read_text().split("\n\n")[3].splitlines()
    )
    assert head[3:] == [f"N = {size}" for size in (1, 2, 4, 6, 8, 16)]
    assert [bool(cell) for cell in six[3:]] == [True, True, True, True, False, False]
    assert [bool(cell) for cell in small[3:]] == [True, True, True, False, True, True]
    assert paper[3:] == ["*92.7*", "*93.1*", "*93.4*", "", "*94.1*", "*94.3*"]
