"""The studies by name: the paper's tables and figures in its order, then our own."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from training.errors import ConfigError
from training.studies.figures import curves, gains, leaves, state_of_the_art
from training.studies.study import Arm, Study

__all__ = ["STUDIES", "study_named"]

INDEPENDENT = Arm(label="$L_I$", changes={"loss": "i"})
STRUCTURED = Arm(label="$L_S$", changes={"loss": "s"})
HIERARCHICAL = Arm(label="$L_{HD}$")
# The paper names 0.5 and "a range of values" below it.
CO_DISTILLATION = tuple(
    Arm(label=rf"Distillation, $\alpha$ = {alpha}", changes={"loss": "d", "alpha": alpha}) for alpha in (0.1, 0.25, 0.5)
)
NO_DISTILLATION = Arm(label="No distillation", changes=INDEPENDENT.changes)
OURS = Arm(label="Hierarchical distillation")

# What the paper's text leaves open. "We use a temperature T = 2 to generate soft-labels" names no other side; and were
# its sums over networks and over ensembles means, the distillation would weigh beside L_I as with alpha = 0.8 in sums.
READINGS = (
    INDEPENDENT,
    Arm(label="$L_{HD}$, T on both sides", changes={"student_temperature": None}),
    Arm(label="$L_{HD}$, T on the labels only", changes={"student_temperature": 1.0}),
    Arm(label=r"$L_{HD}$, $\alpha$ = 0.8", changes={"student_temperature": None, "alpha": 0.8}),
    # The same gradient, but for its length, as 0.5 has without the factor T squared.
    Arm(label=r"$L_{HD}$, $\alpha$ = 0.2", changes={"student_temperature": None, "alpha": 0.2}),
    # Twice (1 - alpha) L_I + alpha L_HD, so that distillation takes nothing from L_I: twice the rate at half the weight
    # decay is SGD on twice the loss.
    Arm(label="$L_I + L_{HD}$", changes={"student_temperature": None, "alpha": 0.5}, lr=2.0, weight_decay=0.5),
)

# Table 1 with the whole loss a mean, and one rate for all levels: then a network's own block sees little of L_I beside
# its weight decay, and distillation makes up for some of that.
MEANS = (
    INDEPENDENT,
    HIERARCHICAL,
    Arm(label="$L_I$ in means", changes=INDEPENDENT.changes, means=True),
    Arm(label="$L_{HD}$ in means", means=True),
    Arm(label="$L_S$ in means", changes=STRUCTURED.changes, means=True),
)

# "We use the first three blocks as a backbone and implement 16 independent branches for the last two blocks."
TREES = (
    Arm(label="Independent networks", changes={"branching": (16, 1, 1, 1, 1)}),
    Arm(label="Multi-branch", changes={"branching": (1, 1, 1, 16, 1)}),
    Arm(label="Hierarchical"),
)

# A single network costs 1/7.8 of HNEsmall's multiply-adds (measured on two CPU cores it trains 4.8 times as fast):
# together they cost 0.65 of the protocol's.
GROWN = Arm(
    label="Grown from a single network",
    epochs=1 / 3,
    lr=1 / 3,
    initial=Arm(label="Single network", changes={"branching": (1, 1, 1, 1, 1), "loss": "i"}, epochs=2.5, lr=2 / 3),
)

# Distillation makes the first networks better and those that it reaches more alike, which larger ensembles pay for.
FIRST = Arm(label="$L_{HD}$ of the first network alone", changes={"prefixes": "first"})
LARGER = Arm(label="HNE", changes={"architecture": "hne"})
# With T on the labels only.
PLUS = {"ema": 0.999, "mix": "cutmix", "prefixes": "all", "student_temperature": 1.0}
ABLATION = (
    HIERARCHICAL,
    Arm(label="+ weights averaged (EMA)", changes={"ema": PLUS["ema"]}),
    Arm(label="+ weights averaged evenly (SWA)", changes={"swa": 0.25, "swa_lr": 0.02}),
    Arm(label="+ label smoothing", changes={"label_smoothing": 0.1}),
    Arm(label="+ mixup", changes={"mix": "mixup"}),
    Arm(label="+ CutMix", changes={"mix": "cutmix"}),
    Arm(label="+ every prefix distilled", changes={"prefixes": "all"}),
    FIRST,
    Arm(label="the same, $L_I$ as second teacher", changes=FIRST.changes, teacher=INDEPENDENT),
    Arm(label="+ HNE as second teacher", changes={"teacher_weight": 0.5}, teacher=LARGER),
    Arm(label="+ $L_I$ as second teacher", changes={"teacher_weight": 0.5}, teacher=INDEPENDENT),
    Arm(label="+ T on the labels only", changes={"student_temperature": 1.0}),
    STRUCTURED,
    Arm(label="$L_S$ boosted", changes={"loss": "boosted"}),
    GROWN,
    INDEPENDENT,
    Arm(label="HNE+ without teacher", changes=PLUS),
    Arm(label="HNE+", changes=PLUS, teacher=INDEPENDENT),
)

_DIVERSITY = Study(
    name="figure3",
    title="Figure 3",
    about="accuracy and deviation of the logits against FLOPs: none, co- and hierarchical distillation",
    architectures=("hne_small",),
    arms=(NO_DISTILLATION, *CO_DISTILLATION, OURS),
    draw=curves,
)

STUDIES: Mapping[str, Study] = MappingProxyType(
    {
        study.name: study
        for study in (
            Study(
                name="table1",
                title="Table 1",
                about="the losses L_I, L_S and L_HD at N = 1, 2, 4, 8, 16",
                architectures=("hne_small", "hne"),
                arms=(INDEPENDENT, STRUCTURED, HIERARCHICAL),
            ),
            _DIVERSITY,
            Study(
                name="figure4",
                title="Figure 4",
                about="ensembles of every size, and every network alone",
                architectures=("hne_small",),
                arms=(NO_DISTILLATION, CO_DISTILLATION[0], CO_DISTILLATION[-1], OURS),
                size=(12.0, 3.6),
                draw=leaves,
            ),
            Study(
                name="figure5",
                title="Figure 5",
                about="independent networks, a multi-branch network, and the hierarchy",
                architectures=("hne_small",),
                arms=TREES,
                draw=curves,
            ),
            Study(
                name="figure6",
                title="Figure 6",
                about="beside published anytime models",
                architectures=("hne_small", "hne"),
                arms=(OURS,),
                draw=state_of_the_art,
                published=True,
            ),
            Study(
                name="figure9",
                title="Figure 9",
                about="Figure 3 for the larger network",
                architectures=("hne",),
                arms=_DIVERSITY.arms,
                draw=curves,
            ),
            Study(
                name="readings",
                title="Readings of L_HD",
                about="what the paper's text leaves open: which side has the temperature, how much is distilled",
                architectures=("hne_small",),
                arms=READINGS,
                draw=curves,
            ),
            Study(
                name="means",
                title="Table 1 in means",
                about="losses that are means over networks and ensembles, at one rate for all levels, beside ours",
                architectures=("hne_small",),
                arms=MEANS,
                draw=curves,
            ),
            Study(
                name="ablation",
                title="Ablation of HNE+",
                about="what each change to the paper's recipe is worth",
                architectures=("hne_small",),
                arms=ABLATION,
                size=(8.0, 5.0),
                draw=gains,
            ),
            Study(
                name="grown",
                title="Growing",
                about="the hierarchy trained from nothing, and grown from a trained single network",
                architectures=("hne_small",),
                arms=(OURS, GROWN),
                draw=curves,
            ),
            Study(
                name="transformer",
                title="Any network",
                about="a vision transformer as a hierarchical ensemble, with and without distillation",
                architectures=("hne_transformer",),
                arms=(NO_DISTILLATION, OURS),
                draw=curves,
            ),
        )
    }
)


def study_named(name: str) -> Study:
    """A study.

    Raises:
        ConfigError: unknown; the message lists the known.
    """
    try:
        return STUDIES[name]
    except KeyError:
        raise ConfigError(f"unknown study {name!r}; known: {', '.join(STUDIES)}") from None
