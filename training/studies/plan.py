"""A planned run: its settings, and the name that follows from them.

Runs with the same decisive settings have the same name, so studies share them, and a study finds its runs again without
keeping any list.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Any

from training.config import TrainConfig

__all__ = ["PlannedRun"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedRun:
    """Settings (resolved, without the folders of other runs), and the other runs: the one whose weights it starts from,
    and the teacher; None where there is none."""

    config: TrainConfig
    initial: PlannedRun | None = None
    teacher: PlannedRun | None = None

    @property
    def digest(self) -> str:
        """SHA-256 of what decides the weights.

        Taken over the settings that differ from the paper's, so that it outlives the addition of new settings.
        """
        papers = decisive(TrainConfig(dataset=self.config.dataset).resolved())
        changed: dict[str, Any] = {k: v for k, v in decisive(self.config).items() if v != papers[k]}
        for role, other in self.others.items():
            changed[role] = other.digest
        return hashlib.sha256(json.dumps(changed, sort_keys=True).encode()).hexdigest()

    @property
    def others(self) -> dict[str, PlannedRun]:
        """The runs that have to be trained before, by the setting that names their folder."""
        others = {"initial": self.initial, "teacher": self.teacher}
        return {role: other for role, other in others.items() if other is not None}

    @property
    def needed(self) -> list[PlannedRun]:
        """This run after all those that have to be trained before it, however far back."""
        return [*(one for other in self.others.values() for one in other.needed), self]

    @property
    def name(self) -> str:
        """The run's folder: readable, and unique by the digest."""
        config = self.config
        return f"{config.architecture}-{config.loss}-{config.epochs}e-s{config.seed}-{self.digest[:8]}"


def decisive(config: TrainConfig) -> dict[str, Any]:
    """What decides the weights but for other runs, whose folders and digests are known only once they are trained."""
    return {name: value for name, value in config.decisive().items() if name not in ("initial", "teacher_sha256")}
