"""Runs are found again by what decides their weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from training.config import LossName, TrainConfig
from training.errors import ConfigError
from training.losses import distillation, hierarchical_distillation, nested_outputs, objective, soft_labels
from training.studies.catalog import STUDIES, study_named
from training.studies.means import in_means
from training.studies.plan import PlannedRun
from training.studies.study import Protocol

SHORT = Protocol(changes={"epochs": 3})


def test_only_what_decides_the_weights_names_a_run() -> None:
    config = TrainConfig(loss="s", epochs=20).resolved()
    run = PlannedRun(config=config)
    assert run.name.startswith("hne_small-s-20e-s0-")
    assert PlannedRun(config=replace(config, data=Path("moved"), threads=2, compile="off")).name == run.name
    assert PlannedRun(config=replace(config, lr=0.3)).name != run.name
    taught = PlannedRun(config=config, teacher=PlannedRun(config=replace(config, architecture="hne")))
    assert taught.name != run.name


def test_names_are_stable_over_versions() -> None:
    """Those of the committed records, from the protocols that made them (benchmarks/results, 2b and 2f)."""
    short = {"dataset": "folder", "batch_size": 64, "warmup_epochs": 0.25}
    twelve = Protocol(changes={**short, "epochs": 12, "lr": 0.3}, architectures=("hne_small",))
    four = Protocol(changes={**short, "epochs": 4, "lr": 0.1, "precision": "float32"})
    planned = {
        run.name
        for study, protocol in (("table1", twelve), ("grown", twelve), ("transformer", four))
        for run in study_named(study).runs(protocol)
    }
    assert planned == {
        "hne_small-i-12e-s0-279fa7fc",
        "hne_small-s-12e-s0-eca09f38",
        "hne_small-hd-12e-s0-84436111",
        "hne_small-i-30e-s0-c8c3dcde",
        "hne_small-hd-4e-s0-68beefd3",
        "hne_transformer-i-4e-s0-f37c30cd",
        "hne_transformer-hd-4e-s0-b3b56a82",
    }
    assert PlannedRun(config=TrainConfig().resolved()).name == "hne_small-hd-200e-s0-44136fa3"
    assert PlannedRun(config=TrainConfig(node_rates="same").resolved()).name != "hne_small-hd-200e-s0-44136fa3"


def test_studies_share_their_runs() -> None:
    names = {name: {run.name for run in study.runs(SHORT)} for name, study in STUDIES.items()}
    assert len(names["table1"]) == 6
    assert len(names["figure3"]) == 5
    assert names["figure4"] < names["figure3"]
    assert len(names["table1"] & names["figure3"]) == 2
    assert names["figure6"] < names["table1"]
    assert len(names["figure5"] & names["figure3"]) == 1
    assert len(names["readings"] & names["figure3"]) == 2


def test_teachers_come_before_their_students_and_once() -> None:
    runs = study_named("ablation").runs(Protocol(changes={"epochs": 3}, seeds=(0, 1)))
    assert len({run.name for run in runs}) == len(runs)
    for index, run in enumerate(runs):
        if run.teacher is not None:
            assert run.teacher.name in {earlier.name for earlier in runs[:index]}
    assert [run.config.seed for run in runs if run.config.architecture == "hne"] == [0, 1]


def test_what_a_run_needs_comes_before_it_however_far_back() -> None:
    config = TrainConfig().resolved()
    first = PlannedRun(config=config)
    second = PlannedRun(config=replace(config, seed=1), initial=first)
    third = PlannedRun(config=replace(config, seed=2), teacher=second)
    assert third.needed == [first, second, third]


def test_a_grown_ensemble_comes_after_the_network_it_starts_from() -> None:
    runs = study_named("grown").runs(Protocol(changes={"epochs": 12, "lr": 0.3}))
    _, single, grown = runs
    assert grown.initial == single
    assert (single.config.branching, single.config.loss) == ((1, 1, 1, 1, 1), "i")
    assert (single.config.epochs, single.config.lr) == (30, 0.2)
    assert (grown.config.epochs, grown.config.lr) == (4, 0.1)
    assert grown.name != PlannedRun(config=grown.config).name, "where it starts decides its weights"
    assert grown in study_named("ablation").runs(Protocol(changes={"epochs": 12, "lr": 0.3}))


def test_what_differs_from_the_paper_is_said() -> None:
    changes = {"train_images": 4500, "epochs": 20, "batch_size": 64, "threads": 2}
    protocol = Protocol(changes=changes, architectures=("hne_tiny",))
    *changed, always = protocol.deviations(study_named("table1"))
    assert changed == [
        "train images 4500 instead of all",
        "epochs 20 instead of 200",
        "batch size 64 instead of 128",
        "hne_tiny instead of hne_small, hne",
    ]
    assert always == (
        "not in the paper: a learning rate per level, residual branches of ResNets that start at zero, bf16, 10% of "
        "the training images held out for temperatures, T on both sides of the distillation, times T squared"
    )
    assert Protocol(changes={}).deviations(study_named("table1")) == [always]
    other = Protocol(
        changes={"node_rates": "same", "precision": "float32", "held_out": 0.2, "student_temperature": 1.0}
    )
    (words,) = other.deviations(study_named("table1"))
    assert words.endswith(", a temperature of 1 for what learns from soft labels")
    assert words.startswith("not in the paper: one learning rate for all levels, ")
    assert "float32, 20% of the training images held out" in words


def test_the_caption_tells_which_arms_read_the_temperature_otherwise() -> None:
    always, *_ = Protocol(changes={}).deviations(study_named("ablation"))
    assert always.endswith(
        "T on both sides of the distillation, times T squared "
        "(on the labels only: + T on the labels only, HNE+ without teacher, HNE+)"
    )


def test_the_caption_speaks_of_the_networks_that_are_there() -> None:
    assert "ResNets" not in Protocol(changes={}).deviations(study_named("transformer"))[0]


def test_the_caption_tells_an_arms_own_schedule() -> None:
    *_, own = Protocol(changes={"epochs": 12, "lr": 0.3}).deviations(study_named("grown"))
    assert own == "Grown from a single network: 4 epochs at lr 0.1 after 30 at 0.2 of Single network"


def test_distillation_beside_all_of_l_i_is_twice_the_loss() -> None:
    protocol = Protocol(changes={"lr": 0.3, "weight_decay": 0.0003})
    study = study_named("readings")
    plain, beside = (study.runs(protocol)[index].config for index in (1, -1))
    assert replace(beside, lr=plain.lr, weight_decay=plain.weight_decay) == plain
    *_, own = protocol.deviations(study)
    assert own == "$L_I + L_{HD}$: 200 epochs at lr 0.6, weight decay 0.00015"

    courses = []
    for config, scale in ((plain, 2.0), (beside, 1.0)):
        assert config.weight_decay is not None
        weight = torch.ones(1, dtype=torch.double, requires_grad=True)
        optimizer = torch.optim.SGD([weight], lr=config.lr, momentum=config.momentum, weight_decay=config.weight_decay)
        for _ in range(3):
            optimizer.zero_grad()
            torch.autograd.backward(scale * weight.sin().sum())
            optimizer.step()
        courses.append(weight.item())
    assert courses[0] == pytest.approx(courses[1], rel=1e-12)


@pytest.mark.parametrize("loss", ["i", "s", "d", "hd"])
def test_means_over_networks_and_ensembles_are_said_as_rate_weight_decay_and_alpha(loss: LossName) -> None:
    config = TrainConfig(loss=loss, lr=0.3, weight_decay=0.0004, alpha=0.3).resolved()
    means = in_means(config)
    assert means.node_rates == "same"
    assert means.weight_decay == pytest.approx(0.3 * 0.0004 / means.lr)
    logits_lbk, targets = torch.randn(16, 5, 10, dtype=torch.double), torch.randint(10, (5,))
    labels_bk = soft_labels(logits_lbk, temperature=2.0)

    def mean_of(predictions: Tensor) -> Tensor:  # (S, B, K)
        return torch.stack([F.cross_entropy(each, targets) for each in predictions]).mean()

    nested_sbk = nested_outputs(logits_lbk, (1, 2, 4, 8, 16))
    expected = {
        "i": mean_of(logits_lbk),
        "s": mean_of(nested_sbk),
        "d": 0.7 * mean_of(logits_lbk) + 0.3 / 16 * distillation(logits_lbk, labels_bk, temperature=2.0),
        "hd": 0.7 * mean_of(logits_lbk)
        + 0.3 / 4 * hierarchical_distillation(logits_lbk, labels_bk, sizes=(1, 2, 4, 8, 16), temperature=2.0),
    }
    ours = objective(loss, logits_lbk, targets, sizes=(1, 2, 4, 8, 16), alpha=means.alpha, temperature=2.0)
    assert means.lr / 0.3 * ours.item() == pytest.approx(expected[loss].item(), rel=1e-5)


def test_the_caption_tells_which_arms_are_means() -> None:
    always, *own = Protocol(changes={}).deviations(study_named("means"))
    assert "a learning rate per level (one for all: $L_I$ in means, $L_{HD}$ in means, $L_S$ in means)" in always
    assert own == [
        "$L_I$ in means: 200 epochs at lr 0.00625, weight decay 0.008",
        "$L_{HD}$ in means: 200 epochs at lr 0.015625, weight decay 0.0032, alpha 0.8",
        "$L_S$ in means: 200 epochs at lr 0.02, weight decay 0.0025",
    ]


def test_how_soft_labels_are_learnt_names_only_runs_that_have_some() -> None:
    def names(**changes: Any) -> list[str]:
        return [run.name for run in study_named("table1").runs(Protocol(changes=changes, architectures=("hne_small",)))]

    independent, structured, hierarchical = names()
    assert names(student_temperature=1.0)[:2] == [independent, structured]
    assert names(student_temperature=1.0)[2] != hierarchical
    assert names(student_temperature=2.0)[2] == hierarchical, "T on both sides, said twice"
    words, _ = Protocol(changes={}).deviations(study_named("readings"))
    assert words.endswith("held out for temperatures")


def test_an_unknown_study_lists_the_known() -> None:
    with pytest.raises(ConfigError, match="unknown study 'table2'; known: table1, figure3"):
        study_named("table2")
