"""Every setting of a training run, defined once: the flags, what a checkpoint remembers, the paper's defaults.

`TrainConfig` is frozen. What is None follows from the dataset; `resolved` fills it in, into a new object, and that
one is stored with the run. Fields marked free (where the data lies, how many workers) may change on resuming; all
others decide the weights and may not.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal, Self, get_args, get_origin, get_type_hints

from training.errors import ConfigError

__all__ = ["DatasetName", "LossName", "Mixing", "NodeRates", "Precision", "Prefixes", "TrainConfig", "settings"]

DatasetName = Literal["cifar10", "cifar100", "imagenet", "folder"]
LossName = Literal["i", "s", "d", "hd", "boosted"]
Prefixes = Literal["powers", "all", "first"]
NodeRates = Literal["own", "same"]
Mixing = Literal["off", "mixup", "cutmix"]
Switch = Literal["auto", "on", "off"]
Precision = Literal["bf16", "float32"]
PRECISION = (
    "bf16 autocast or float32, whose convolutions and products on a GPU are TF32; unless told, hne-train train takes "
    "float32 where the processor has no bf16 instructions"
)

# Appendix A, "Hyper-parameter settings". A folder is trained like CIFAR. The held-out fractions are MSDNet's:
# 5,000 of CIFAR's 50,000 training images, 50,000 of ImageNet's 1.28 million.
_CIFAR: dict[str, Any] = {"epochs": 200, "batch_size": 128, "weight_decay": 5e-4, "held_out": 0.1}
_IMAGENET: dict[str, Any] = {"epochs": 120, "batch_size": 256, "weight_decay": 1e-5, "held_out": 0.04}
PAPER: Mapping[DatasetName, dict[str, Any]] = MappingProxyType(
    {"cifar10": _CIFAR, "cifar100": _CIFAR, "imagenet": _IMAGENET, "folder": _CIFAR}
)


@dataclass(frozen=True, slots=True)
class Setting:
    """What a field is for, as its flag's help, where {architectures} stands for all that are known. A free field may
    change on resuming; it does not decide the weights."""

    help: str
    free: bool = False
    flag: bool = True
    """Whether it is set by hand; otherwise it follows from others when a run begins."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """Settings of one run; the help texts are the documentation of the fields.

    Raises:
        ConfigError: a value is out of range.
    """

    architecture: Annotated[str, Setting("architecture: {architectures}")] = "hne_small"
    branching: Annotated[
        tuple[int, ...] | None,
        Setting("another tree: a branching factor per block, such as 1,1,1,16,1 (default: the architecture's)"),
    ] = None
    initial: Annotated[
        Path | None,
        Setting(
            "folder of a trained run or an exported package to start from: the same tree, "
            "or a smaller one (branching 1,1,...), grown; with other classes the classifiers start anew"
        ),
    ] = None
    dataset: Annotated[
        DatasetName,
        Setting(
            "cifar10 and cifar100 are downloaded; imagenet is read as torchvision does; "
            "folder is any folder with train/CLASS/IMAGE, and test/ or val/ beside train/"
        ),
    ] = "cifar10"
    data: Annotated[Path, Setting("where the dataset lies, or is downloaded to", free=True)] = Path("data")
    held_out: Annotated[
        float | None,
        Setting("fraction of the training images kept for temperatures and thresholds (default: 0.1; ImageNet 0.04)"),
    ] = None
    train_images: Annotated[
        int | None,
        Setting(
            "how many of the training images train, drawn at random, the same ones for every seed; those held out do "
            "not depend on it (default: all but these)"
        ),
    ] = None
    loss: Annotated[
        LossName,
        Setting(
            "i: independent (Eq. 3); s: structured (4); d: distillation (5); hd: hierarchical distillation (6). "
            "d and hd are mixed with i by alpha. boosted: as s, but each prefix trains its new networks only"
        ),
    ] = "hd"
    alpha: Annotated[float, Setting("weight of the distillation loss, 0..1; Eq. 3 has the rest")] = 0.5
    temperature: Annotated[float, Setting("temperature T of the teacher's soft labels")] = 2.0
    student_temperature: Annotated[
        float | None,
        Setting(
            "temperature of the networks that learn from them (default: T, times T squared); "
            "1: the loss of the paper's text read to the letter"
        ),
    ] = None
    prefixes: Annotated[
        Prefixes,
        Setting(
            "ensembles that s, hd and boosted train: the powers of two (Eq. 1), all sizes, or the first network and "
            "the full one only, at the same weight together"
        ),
    ] = "powers"
    teacher: Annotated[
        Path | None,
        Setting("folder of a trained run whose full ensemble teaches beside y_E, with loss d or hd", free=True),
    ] = None
    teacher_sha256: Annotated[str | None, Setting("digest of the teacher's state", flag=False)] = None
    teacher_weight: Annotated[float, Setting("the teacher's share of the soft labels, 0..1; y_E has the rest")] = 0.5
    label_smoothing: Annotated[float, Setting("share of the cross-entropy's label spread over all classes, 0..1")] = 0.0
    mix: Annotated[Mixing, Setting("mix pairs of images and their labels; all networks see the same ones")] = "off"
    mix_share: Annotated[float, Setting("share of the batches that are mixed, 0..1")] = 0.5
    ema: Annotated[
        float,
        Setting("decay per step of a running average of the weights, which then is the result; 0: no average"),
    ] = 0.0
    swa: Annotated[
        float,
        Setting(
            "stochastic weight averaging: share of the training, at its end, that has the constant rate --swa-lr and "
            "whose weights are averaged evenly, which then is the result, 0..1; 1 for a run with --initial; 0: none"
        ),
    ] = 0.0
    swa_lr: Annotated[float, Setting("learning rate of that share")] = 0.05
    epochs: Annotated[int | None, Setting("passes over the training images (default: 200; ImageNet 120)")] = None
    batch_size: Annotated[int | None, Setting("images per step (default: 128; ImageNet 256)")] = None
    lr: Annotated[
        float, Setting("peak learning rate; falls along a cosine to zero, or to --swa-lr where --swa begins")
    ] = 0.1
    warmup_epochs: Annotated[float, Setting("epochs over which the learning rate first rises linearly")] = 0.0
    node_rates: Annotated[
        NodeRates,
        Setting(
            "own: every level of the tree learns at the rate of a network of its own (see training.optimizer); "
            "same: one rate and weight decay for all, plain SGD on the summed losses"
        ),
    ] = "own"
    momentum: Annotated[float, Setting("momentum of SGD")] = 0.9
    weight_decay: Annotated[float | None, Setting("L2 penalty (default: 5e-4; ImageNet 1e-5)")] = None
    precision: Annotated[Precision, Setting(PRECISION)] = "bf16"
    seed: Annotated[int, Setting("decides initial weights, order and augmentation")] = 0
    device: Annotated[str, Setting("cpu, cuda, cuda:1, ...; auto: a GPU if there is one", free=True)] = "auto"
    compile: Annotated[
        Switch,
        Setting(
            "torch.compile, on a GPU with another layout of activations and CUDA graphs; auto: on a GPU only (on CPUs "
            "eager was measured faster)",
            free=True,
        ),
    ] = "auto"
    threads: Annotated[int | None, Setting("CPU threads of PyTorch (default: its own choice)", free=True)] = None
    workers: Annotated[int, Setting("processes that decode images larger than 64 pixels", free=True)] = 8

    def __post_init__(self) -> None:
        for name, hint in _hints().items():
            if get_origin(hint) is Literal:
                self._require(name, getattr(self, name) in get_args(hint), f"choose one of {', '.join(get_args(hint))}")
        for name in ("alpha", "teacher_weight", "mix_share", "swa"):
            self._require(name, 0 <= getattr(self, name) <= 1, "must lie in 0..1")
        for name in ("momentum", "label_smoothing", "ema"):
            self._require(name, 0 <= getattr(self, name) < 1, "must lie in 0..1, below 1")
        self._require("teacher", self.teacher is None or self.distils, "needs --loss d or hd")
        self._require("swa", not (self.swa and self.ema), "is another average than --ema; choose one")
        positive = ("train_images", "temperature", "student_temperature", "lr", "swa_lr", "epochs", "batch_size")
        for name in (*positive, "threads"):
            value = getattr(self, name)
            self._require(name, value is None or value > 0, "must be positive")
        for name in ("weight_decay", "warmup_epochs", "workers", "seed"):
            value = getattr(self, name)
            self._require(name, value is None or value >= 0, "must not be negative")
        self._require("held_out", self.held_out is None or 0 < self.held_out < 1, "must be a fraction between 0 and 1")
        if self.epochs is not None:
            self._require("warmup_epochs", self.warmup_epochs < self.epochs, "must be shorter than the training")

    def _require(self, name: str, holds: bool, rule: str) -> None:
        if not holds:
            raise ConfigError(f"--{name.replace('_', '-')} {getattr(self, name)}: {rule}")

    @property
    def distils(self) -> bool:
        """Whether soft labels are part of the loss."""
        return self.loss in ("d", "hd")

    def check_effects(self, chosen: Iterable[str]) -> None:
        """Make sure that each chosen setting does something, together with the others.

        Raises:
            ConfigError: one does nothing.
        """
        for name in chosen:
            if name in (needs := self._needs()):
                self._require(name, *needs[name])

    def _needs(self) -> dict[str, tuple[bool, str]]:
        """Of settings that may do nothing: whether they do something here, and what they need for it."""
        return {
            "alpha": (self.distils, "needs --loss d or hd"),
            "temperature": (self.distils, "needs --loss d or hd"),
            "student_temperature": (self.distils, "needs --loss d or hd"),
            "prefixes": (self.loss in ("s", "hd", "boosted"), "needs --loss s, hd or boosted"),
            "teacher_weight": (self.teacher is not None, "needs --teacher"),
            "mix_share": (self.mix != "off", "needs --mix mixup or cutmix"),
            "swa_lr": (self.swa > 0, "needs --swa"),
            "lr": (self.swa < 1, "does nothing with --swa 1, whose rate is --swa-lr"),
        }

    def resolved(self) -> Self:
        """A copy in which the paper's settings for the dataset stand where nothing was chosen."""
        missing = {name: value for name, value in PAPER[self.dataset].items() if getattr(self, name) is None}
        return replace(self, **missing)

    def decisive(self) -> dict[str, Any]:
        """The settings that decide the weights, as JSON values; where and how the run was carried out is left out.

        Of the run to start from only its folder's name is told: where that lies is nobody else's business.
        """
        stored = json.loads(self.to_json()) | {"initial": self.initial and self.initial.name}
        return {name: stored[name] for name, setting in settings().items() if not setting.free}

    def told(self) -> dict[str, Any]:
        """For people: those of the decisive settings that are set and do something."""
        idle = {name for name, (effective, _) in self._needs().items() if not effective}
        return {name: value for name, value in self.decisive().items() if value is not None and name not in idle}

    def to_json(self) -> str:
        """As stored in checkpoints."""
        return json.dumps(asdict(self), default=str)

    @classmethod
    def from_json(cls, text: str) -> Self:
        """Read what `to_json` wrote.

        Raises:
            ConfigError: not JSON, a setting this version does not know, or a value out of range.
        """
        try:
            values: dict[str, Any] = dict(json.loads(text))
        except (ValueError, TypeError) as error:
            raise ConfigError(f"stored settings are unreadable: {error}") from error
        if unknown := values.keys() - {item.name for item in fields(cls)}:
            raise ConfigError(f"unknown settings {', '.join(sorted(unknown))}: written by another version?")
        for name in ("data", "initial", "teacher"):
            if values.get(name) is not None:
                values[name] = Path(values[name])
        if values.get("branching") is not None:
            values["branching"] = tuple(values["branching"])
        return cls(**values)

    def resumed_with(self, chosen: dict[str, Any]) -> Self:
        """These stored settings with the free ones replaced by what the user chose now.

        Raises:
            ConfigError: a setting that decides the weights was chosen differently.
        """
        free = {name for name, setting in settings().items() if setting.free}
        for name, value in chosen.items():
            if name not in free and value != (stored := getattr(self, name)):
                raise ConfigError(
                    f"--{name.replace('_', '-')} {value}: the run was started with {stored}; "
                    "leave the flag out to resume it, or choose another --out for a new run"
                )
        return replace(self, **{name: value for name, value in chosen.items() if name in free})


@cache
def settings() -> Mapping[str, Setting]:
    """What each field of `TrainConfig` is for."""
    return {name: get_args(hint)[1] for name, hint in get_type_hints(TrainConfig, include_extras=True).items()}


@cache
def _hints() -> Mapping[str, Any]:
    return get_type_hints(TrainConfig)
