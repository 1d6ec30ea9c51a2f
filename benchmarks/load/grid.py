"""The grid of the overload benchmark: which runs it consists of, in which order, and what each baseline gets."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from statistics import mean

__all__ = ["PILOT", "Cell", "Grid", "Setting"]

PILOT = -1
"""The repeat of a pilot: its arrivals are not those of any run that counts."""
OURS = "anytime"
WARM_UP = {"replan": 10.5}
"""Seconds of load before those that count: it plans every 10 s, and starts with one network."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """A panel of the grid."""

    cv2: float
    """Squared coefficient of variation of the gaps between arrivals; 1 is Poisson."""
    slack: float
    """Deadline over the full ensemble's latency."""
    faults: float
    """Share of the steps that are slowed."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One run."""

    setting: Setting
    rho: float
    """Offered over the full ensemble's capacity."""
    policy: str
    margin: float | None = None
    repeat: int

    @property
    def named(self) -> str:
        """The policy with its margin, as `parse_policy` takes it."""
        return self.policy if self.margin is None else f"{self.policy}@{self.margin:g}"

    @property
    def key(self) -> str:
        """Its name in a journal."""
        setting = self.setting
        return f"{self.repeat} {setting.cv2:g} {setting.slack:g} {setting.faults:g} {self.rho:g} {self.named}"

    @property
    def seed(self) -> list[int]:
        """The same for all policies."""
        values = (self.rho, self.setting.cv2, self.setting.slack)
        return [self.repeat + 1, *(round(1000 * value) for value in values)]


@dataclass(frozen=True, slots=True, kw_only=True)
class Grid:
    """Every combination of these."""

    rhos: Sequence[float]
    cv2s: Sequence[float]
    slacks: Sequence[float]
    faults: Sequence[float]
    policies: Sequence[str]
    repeats: int
    seconds: float
    """Of each run that count."""
    warm_up: float
    """Seconds of load before them."""
    margins: Sequence[float]
    """Among which each baseline gets what served it best; none: no choice."""
    pilot_rhos: Sequence[float]
    seed: int

    @property
    def settings(self) -> list[Setting]:
        """The panels."""
        return [Setting(cv2=a, slack=b, faults=c) for a, b, c in product(self.cv2s, self.slacks, self.faults)]

    def warm_up_of(self, cell: Cell) -> float:
        """Seconds of load before those that count."""
        return max(self.warm_up, WARM_UP.get(cell.policy, 0.0))

    def pilots(self) -> list[Cell]:
        """The runs that choose the baselines' margins."""
        baselines = [policy for policy in self.policies if policy != OURS]
        return [
            Cell(setting=setting, rho=rho, policy=policy, margin=margin, repeat=PILOT)
            for setting, rho, policy, margin in product(self.settings, self.pilot_rhos, baselines, self.margins)
        ]

    def best_margins(self, goodput: Mapping[str, float]) -> dict[tuple[Setting, str], float]:
        """By setting and baseline, the margin with the highest mean goodput; `goodput` is that of the pilots' keys."""
        tried: dict[tuple[Setting, str], dict[float, list[float]]] = {}
        for cell in self.pilots():
            assert cell.margin is not None
            of_margin = tried.setdefault((cell.setting, cell.policy), {})
            of_margin.setdefault(cell.margin, []).append(goodput[cell.key])
        return {where: max(found, key=lambda margin: mean(found[margin])) for where, found in tried.items()}

    def cells(self, margins: Mapping[tuple[Setting, str], float]) -> Iterator[Cell]:
        """The runs that count, in an order in which a drift of the machine hits all policies alike."""
        for repeat, setting, rho, policy in product(range(self.repeats), self.settings, self.rhos, self.policies):
            margin = margins.get((setting, policy))
            yield Cell(setting=setting, rho=rho, policy=policy, margin=margin, repeat=repeat)
