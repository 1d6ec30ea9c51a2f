"""Figures that others published, to set beside ours. Only what is printed in their paper, or stated by its authors'
code, is here; nothing is read off a plot or filled in between points.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal, get_args

__all__ = ["CURVES", "SIZES", "TABLE_1", "Benchmark", "PublishedCurve"]

Benchmark = Literal["cifar10", "cifar100"]

_PAPER = "Ruiz and Verbeek, AAAI 2021, Table 1"

SIZES = (1, 2, 4, 8, 16)
"""The ensemble sizes of Table 1."""

TABLE_1: Mapping[tuple[Benchmark, str, str], tuple[float, ...]] = MappingProxyType(
    {
        ("cifar10", "hne_small", "i"): (91.7, 92.4, 93.2, 93.7, 94.0),
        ("cifar10", "hne_small", "s"): (91.6, 92.1, 92.7, 92.9, 93.3),
        ("cifar10", "hne_small", "hd"): (92.7, 93.1, 93.4, 94.1, 94.3),
        ("cifar100", "hne_small", "i"): (67.7, 70.0, 71.9, 73.4, 74.8),
        ("cifar100", "hne_small", "s"): (65.0, 66.3, 68.3, 69.6, 72.6),
        ("cifar100", "hne_small", "hd"): (71.1, 71.7, 73.4, 74.5, 75.3),
        ("cifar10", "hne", "i"): (93.6, 94.2, 94.8, 95.0, 95.2),
        ("cifar10", "hne", "s"): (92.9, 93.6, 93.5, 94.1, 94.4),
        ("cifar10", "hne", "hd"): (94.6, 94.9, 95.1, 95.5, 95.6),
        ("cifar100", "hne", "i"): (73.5, 75.4, 77.5, 79.0, 79.7),
        ("cifar100", "hne", "s"): (70.7, 73.3, 74.0, 75.7, 76.8),
        ("cifar100", "hne", "hd"): (76.1, 77.2, 78.0, 79.0, 79.8),
    }
)
"""Accuracy in percent at `SIZES`, by data, architecture and loss."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PublishedCurve:
    """Points of one anytime model: millions of multiply-adds (lowest, highest) and accuracy in percent."""

    system: str
    benchmark: Benchmark
    points: tuple[tuple[float, float, float], ...]
    source: str


def _points(*pairs: tuple[float, float]) -> tuple[tuple[float, float, float], ...]:
    return tuple((mflops, mflops, accuracy) for mflops, accuracy in pairs)


# Up to eight networks, as in its Figure 6. FLOPs of the paper's own networks follow from its Table 2.
_HNE = {"hne_small": (13, 17, 27, 51), "hne": (51, 66, 107, 202)}

CURVES: tuple[PublishedCurve, ...] = (
    PublishedCurve(
        system="MSDNet",
        benchmark="cifar100",
        points=_points((15, 61.3), (122, 74.1)),
        source="kalviny/MSDNet-PyTorch, first and last exit",
    ),
    PublishedCurve(
        system="RANet",
        benchmark="cifar100",
        points=_points((16, 66.3), (95, 74.4)),
        source="yangle15/RANet-pytorch, first and last exit",
    ),
    PublishedCurve(
        system="BoostNet",
        benchmark="cifar100",
        points=_points((15, 65.3), (52, 74.15), (100, 76.5)),
        source="SHI-Labs/Boosted-Dynamic-Networks",
    ),
    PublishedCurve(
        system="L2W-DEN (budgeted)",
        benchmark="cifar10",
        points=((25, 30, 94.7),),
        source="LeapLabTHU/L2W-DEN, 25 to 30 million on average",
    ),
    *(
        PublishedCurve(
            system=f"{name} (paper)",
            benchmark=benchmark,
            points=_points(*zip(_HNE[architecture], TABLE_1[benchmark, architecture, "hd"], strict=False)),
            source=_PAPER,
        )
        for architecture, name in (("hne_small", "HNEsmall"), ("hne", "HNE"))
        for benchmark in get_args(Benchmark)
    ),
)
