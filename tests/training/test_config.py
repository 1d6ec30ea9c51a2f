"""Settings: the paper's defaults, what is refused, what a run may change on resuming."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from training.config import TrainConfig
from training.errors import ConfigError


def test_the_papers_settings_for_cifar_and_imagenet() -> None:
    cifar = TrainConfig(dataset="cifar100").resolved()
    assert (cifar.epochs, cifar.batch_size, cifar.weight_decay, cifar.held_out) == (200, 128, 5e-4, 0.1)
    assert (cifar.lr, cifar.momentum, cifar.alpha, cifar.temperature, cifar.loss) == (0.1, 0.9, 0.5, 2.0, "hd")
    imagenet = TrainConfig(dataset="imagenet").resolved()
    assert (imagenet.epochs, imagenet.batch_size, imagenet.weight_decay) == (120, 256, 1e-5)


def test_what_was_chosen_is_kept() -> None:
    chosen = TrainConfig(epochs=3, weight_decay=0.0)
    assert (chosen.resolved().epochs, chosen.resolved().weight_decay) == (3, 0.0)
    assert chosen.batch_size is None


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"loss": "hdd"}, "--loss hdd: choose one of i, s, d, hd"),
        ({"alpha": 1.5}, "--alpha 1.5: must lie in 0..1"),
        ({"lr": 0.0}, "--lr 0.0: must be positive"),
        ({"epochs": 0}, "--epochs 0: must be positive"),
        ({"train_images": 0}, "--train-images 0: must be positive"),
        ({"held_out": 1.0}, "--held-out 1.0: must be a fraction"),
        ({"weight_decay": -1.0}, "--weight-decay -1.0: must not be negative"),
        ({"momentum": 1.0}, "--momentum 1.0"),
        ({"ema": 1.0}, "--ema 1.0: must lie in 0..1, below 1"),
        ({"swa": 1.5}, "--swa 1.5: must lie in 0..1"),
        ({"swa": 0.5, "ema": 0.9}, "--swa 0.5: is another average than --ema"),
        ({"mix": "blend"}, "--mix blend: choose one of off, mixup, cutmix"),
        ({"teacher": Path("run"), "loss": "i"}, "--teacher run: needs --loss d or hd"),
        ({"epochs": 2, "warmup_epochs": 2.0}, "--warmup-epochs 2.0: must be shorter"),
    ],
)
def test_values_out_of_range_are_refused_by_the_name_of_their_flag(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        TrainConfig(**settings)
    assert message in str(caught.value)


def test_settings_survive_storing() -> None:
    config = TrainConfig(branching=(1, 1, 4), data=Path("a"), teacher=Path("b"), dataset="folder", seed=7).resolved()
    assert TrainConfig.from_json(config.to_json()) == config


def test_unknown_stored_settings_are_refused() -> None:
    stored = json.loads(TrainConfig().to_json()) | {"learning_rate": 0.1}
    with pytest.raises(ConfigError, match="unknown settings learning_rate"):
        TrainConfig.from_json(json.dumps(stored))


def test_resuming_may_move_the_data_but_not_change_the_learning_rate() -> None:
    config = TrainConfig(lr=0.1)
    assert config.resumed_with({"data": Path("moved"), "lr": 0.1}).data == Path("moved")
    with pytest.raises(ConfigError, match=r"--lr 0.2: the run was started with 0.1"):
        config.resumed_with({"lr": 0.2})


def test_a_record_does_not_tell_where_the_run_to_start_from_lay() -> None:
    config = TrainConfig(initial=Path("somewhere/private/single-30"))
    assert config.decisive()["initial"] == "single-30"
    assert TrainConfig.from_json(config.to_json()).initial == config.initial
    assert TrainConfig().decisive()["initial"] is None


def test_people_are_told_what_is_set_and_does_something() -> None:
    told = TrainConfig(loss="i", epochs=5).resolved().told()
    assert (told["loss"], told["epochs"], told["held_out"]) == ("i", 5, 0.1)
    assert not told.keys() & {"alpha", "temperature", "prefixes", "initial", "branching", "data", "mix_share", "swa_lr"}
    assert {"alpha", "temperature", "prefixes"} <= TrainConfig(loss="hd").told().keys()
