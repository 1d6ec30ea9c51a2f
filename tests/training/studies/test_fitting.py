"""What a network cannot have is found out before anything is trained."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.packages import install, site
from training.cli import main
from training.studies.catalog import study_named
from training.studies.fitting import fitted
from training.studies.study import Protocol

NETWORKS = """
from torch import nn

from model_core.custom import replicated
from model_core.spec import ModelSpec

SINGLE = ModelSpec(name="single", family="mine", branching=(1, 1), classes=10, input_shape=(3, 16, 16))
FIVE = ModelSpec(name="five", family="mine", branching=(1, 2, 1, 1, 1), classes=10, input_shape=(3, 16, 16))


def blocks(spec):
    middle = [lambda: nn.Conv2d(4, 4, 3)] * (spec.tree.blocks - 2)
    head = lambda: nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, spec.classes))
    return replicated(spec, [lambda: nn.Conv2d(3, 4, 3), *middle, head])
"""
SETTINGS = "--dataset folder --epochs 1 --batch-size 24 --precision float32 --device cpu --threads 1"


@pytest.fixture
def networks(tmp_path: Path) -> Path:
    """Two networks of ordinary modules, `single` and `five`, as an installed package."""
    root = tmp_path / "site"
    declared = {
        "hne_serve.architectures": {"single": "mypackage:SINGLE", "five": "mypackage:FIVE"},
        "hne_serve.families": {"mine": "mypackage:blocks"},
    }
    install(root, "mypackage", {"mypackage.py": NETWORKS}, declared)
    return root


def test_a_study_whose_comparison_a_network_cannot_have_is_refused_before_it_trains(
    image_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = f"study grown --architecture hne_transformer --data {image_folder} --out {tmp_path / 'out'} {SETTINGS}"
    assert main(words.split()) == 2
    assert capsys.readouterr().err == (
        "hne-train: --architecture hne_transformer: nothing is left of the study grown without what it cannot have: "
        "Grown from a single network (4 depths for 5 blocks)\n"
    )
    assert not (tmp_path / "out").exists()


def test_an_arm_that_a_network_cannot_have_is_left_out_and_the_caption_says_so(
    image_folder: Path, tmp_path: Path, networks: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = f"study table1 --architecture single --data {image_folder} --out {tmp_path / 'out'} {SETTINGS}"
    with site(networks):
        assert main(words.split()) == 0
    told = capsys.readouterr()
    assert "table1: without $L_{HD}$ for single, which cannot be: --loss hd: a single network has no" in told.err
    (table,) = tmp_path.glob("out/*/table1.md")
    assert "without $L_{HD}$, which single cannot have" in table.read_text()
    assert "INCOMPLETE" not in table.read_text()
    assert len(list(tmp_path.glob("out/*/runs/*/evaluation.json"))) == 2


def test_an_arm_that_a_warm_up_is_too_long_for_is_left_out() -> None:
    study = fitted(study_named("ablation"), Protocol(changes={"epochs": 3, "warmup_epochs": 1.0}))
    assert study.left_out == {
        ("hne_small", "Grown from a single network"): "--warmup-epochs 1.0: must be shorter than the training"
    }


def test_separate_modules_are_ablated_without_growing_and_without_a_teacher_of_other_images(networks: Path) -> None:
    protocol = Protocol(changes={"epochs": 12}, architectures=("five",))
    with site(networks):
        study = fitted(study_named("ablation"), protocol)
        (caption,) = (words for words in protocol.deviations(study) if "Grown" in words)
        runs = study.runs(protocol)
    assert study.left_out == {
        ("five", "+ HNE as second teacher"): "hne cannot teach it: it takes images of another size",
        ("five", "Grown from a single network"): (
            "--initial: block 1 has 1 nodes there, which cannot become 2 here: its branches are separate modules "
            "(ReplicatedBlock)"
        ),
    }
    assert caption == "without Grown from a single network, which five cannot have"
    assert {run.config.architecture for run in runs} == {"five"}
    assert len(study.arms_of("five")) == len(study.arms) - 2
    assert study.arms_of("hne_small") == list(study.arms)
