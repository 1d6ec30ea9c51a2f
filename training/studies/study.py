"""A study as data: arms times architectures times seeds are its runs; a function draws its figure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

from matplotlib.figure import Figure

from model_core import zoo
from training.config import TrainConfig
from training.studies.means import in_means, rounded
from training.studies.plan import PlannedRun
from training.studies.published import Benchmark
from training.studies.record import Line, load_record

__all__ = ["FIXED", "Arm", "Protocol", "Study", "planned"]

FIXED = frozenset(
    {
        "architecture",
        "branching",
        "initial",
        "seed",
        "loss",
        "alpha",
        "temperature",
        "prefixes",
        "label_smoothing",
        "ema",
    }
    | {"swa", "swa_lr", "mix", "mix_share", "teacher", "teacher_sha256", "teacher_weight"}
)
"""What arms decide, so that no flag does."""

OURS = frozenset({"node_rates", "student_temperature", "precision", "held_out"})
"""What the paper does not say, so that its captions always do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Arm:
    """One way of training: what it changes of the protocol's settings."""

    label: str
    changes: Mapping[str, Any] = field(default_factory=lambda: MappingProxyType({}))
    epochs: float = 1.0
    """Times the protocol's, rounded, one at least."""
    lr: float = 1.0
    """Times the protocol's."""
    weight_decay: float = 1.0
    """Times the protocol's."""
    initial: Arm | None = None
    """The way of training the run that this one starts from."""
    teacher: Arm | None = None
    """The way of training the run that teaches this one."""
    means: bool = False
    """Whether its losses are means over networks and ensembles, at one rate for all levels (`in_means`)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Protocol:
    """What is the same for all runs of a study: the user's choices."""

    changes: Mapping[str, Any]
    seeds: tuple[int, ...] = (0,)
    architectures: tuple[str, ...] | None = None
    benchmark: Benchmark | None = None
    """Whose published figures stand beside ours; None shows none."""

    @property
    def base(self) -> TrainConfig:
        """The settings that arms change."""
        return TrainConfig(**self.changes).resolved()

    def deviations(self, study: Study) -> list[str]:
        """What differs from the paper's protocol, for the captions: what was chosen, what we do that the paper does not
        name, and arms with a schedule of their own."""
        base = self.base
        chosen, papers = base.decisive(), TrainConfig(dataset=base.dataset).resolved().decisive()
        words = [
            f"{name.replace('_', ' ')} {value} instead of {'all' if papers[name] is None else papers[name]}"
            for name, value in chosen.items()
            if name not in FIXED | OURS and value != papers[name]
        ]
        if self.architectures is not None and self.architectures != study.architectures:
            words.append(f"{', '.join(self.architectures)} instead of {', '.join(study.architectures)}")
        architectures = self.architectures or study.architectures
        words += [f"without {label}, which {architecture} cannot have" for architecture, label in study.left_out]
        families = {zoo.architecture(name).family for name in architectures}
        arms = [arm for arm in study.arms if any(arm in study.arms_of(name) for name in architectures)]
        ours = [
            *_rates(arms, base),
            *(["residual branches of ResNets that start at zero"] if "resnet" in families else []),
            base.precision,
            f"{base.held_out:.0%} of the training images held out for temperatures",
        ]
        distilling = [arm for arm in arms if _run(arm, base).config.distils]
        apart = [arm.label for arm in distilling if "student_temperature" in arm.changes]
        if len(apart) < len(distilling):  # else the labels say it
            student = base.student_temperature
            sides = (
                "T on both sides of the distillation, times T squared"
                if student is None
                else f"a temperature of {student:g} for what learns from soft labels"
            )
            ours.append(sides + (f" (on the labels only: {', '.join(apart)})" if apart else ""))
        words.append(f"not in the paper: {', '.join(ours)}")
        schedules = {
            _own_schedule(arm, replace(base, architecture=name)): None
            for arm in arms
            for name in architectures
            if arm in study.arms_of(name)
        }
        return words + [schedule for schedule in schedules if schedule]


Draw = Callable[[Figure, Sequence[Line], Protocol], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Study:
    """A table or figure."""

    name: str
    title: str
    about: str
    architectures: tuple[str, ...]
    arms: tuple[Arm, ...]
    size: tuple[float, float] = (7.5, 5.5)
    """Of the figure, in inches; the drawing function scales it for more than one architecture."""
    draw: Draw | None = None
    published: bool = False
    """Whether it shows other systems' published points, whose sources the table then names."""
    left_out: Mapping[tuple[str, str], str] = field(default_factory=lambda: MappingProxyType({}))
    """Why it goes without an arm for an architecture, by its name and the arm's label."""

    @property
    def decided(self) -> frozenset[str]:
        """The settings that some arm decides by itself."""
        return frozenset(name for arm in self.arms for name in arm.changes)

    def arms_of(self, architecture: str) -> list[Arm]:
        """The arms that an architecture has."""
        return [arm for arm in self.arms if (architecture, arm.label) not in self.left_out]

    def runs(self, protocol: Protocol) -> list[PlannedRun]:
        """Every run that the study needs, each once, and after those that it needs itself."""
        ordered: dict[str, PlannedRun] = {}
        for architecture in protocol.architectures or self.architectures:
            for arm in self.arms_of(architecture):
                for run in planned(arm, architecture, protocol):
                    for one in run.needed:
                        ordered.setdefault(one.name, one)
        return list(ordered.values())

    def lines(self, protocol: Protocol, folder: Path) -> list[Line]:
        """What has been measured so far; arms without any record are left out."""
        lines = []
        for architecture in protocol.architectures or self.architectures:
            for arm in self.arms_of(architecture):
                runs = planned(arm, architecture, protocol)
                records = tuple(record for run in runs if (record := load_record(run, folder)) is not None)
                if records:
                    lines.append(Line(architecture=architecture, label=arm.label, planned=runs, records=records))
        return lines


def planned(arm: Arm, architecture: str, protocol: Protocol) -> tuple[PlannedRun, ...]:
    """The runs of an arm, one per seed."""
    return tuple(_run(arm, replace(protocol.base, architecture=architecture, seed=seed)) for seed in protocol.seeds)


def _rates(arms: Sequence[Arm], base: TrainConfig) -> list[str]:
    """How the levels of the tree learn, arm by arm where they differ."""
    own, means = "a learning rate per level", [arm.label for arm in arms if arm.means]
    if base.node_rates == "same":
        return ["one learning rate for all levels"]
    return [f"{own} (one for all: {', '.join(means)})" if means else own]


def _own_schedule(arm: Arm, base: TrainConfig) -> str:
    """An arm's epochs, rate and weight decay, where they are not the protocol's; "" where they are."""
    run = _run(arm, base)
    changed = run.config.weight_decay != base.weight_decay
    if arm.initial is None and not changed and (run.config.epochs, run.config.lr) == (base.epochs, base.lr):
        return ""
    words = f"{arm.label}: {run.config.epochs} epochs at lr {run.config.lr:g}"
    if changed:
        words += f", weight decay {run.config.weight_decay:g}"
    if arm.means and run.config.distils:
        words += f", alpha {run.config.alpha:g}"
    if arm.initial is not None and run.initial is not None:
        words += f" after {run.initial.config.epochs} at {run.initial.config.lr:g} of {arm.initial.label}"
    return words


def _run(arm: Arm, base: TrainConfig) -> PlannedRun:
    assert base.epochs is not None
    assert base.weight_decay is not None
    scaled = replace(
        base,
        epochs=max(1, round(arm.epochs * base.epochs)),
        lr=base.lr if arm.lr == 1 else rounded(arm.lr * base.lr),
        weight_decay=base.weight_decay if arm.weight_decay == 1 else rounded(arm.weight_decay * base.weight_decay),
    )
    config = replace(scaled, **arm.changes)
    if arm.means:
        config = in_means(config)
    if not config.distils or config.student_temperature == config.temperature:  # a name for the same weights
        config = replace(config, student_temperature=None)
    return PlannedRun(
        config=config,
        initial=None if arm.initial is None else _run(arm.initial, base),
        teacher=None if arm.teacher is None else _run(arm.teacher, base),
    )
