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
    """Settings (resolved, without a teacher's folder), and the run that is to be the teacher, if there is one."""

    config: TrainConfig
    teacher: PlannedRun | None = None

    @property
    def digest(self) -> str:
        """SHA-256 of what decides the weights.

        Taken over the settings that differ from the paper's, so that it outlives the addition of new settings.
        """
        papers = decisive(TrainConfig(dataset=self.config.dataset).resolved())
        changed: dict[str, Any] = {k: v for k, v in decisive(self.config).items() if v != papers[k]}
        if self.teacher is not None:
            changed["teacher"] = self.teacher.digest
        return hashlib.sha256(json.dumps(changed, sort_keys=True).encode()).hexdigest()

    @property
    def name(self) -> str:
        """The run's folder: readable, and unique by the digest."""
        config = self.config
        return f"{config.architecture}-{config.loss}-{config.epochs}e-s{config.seed}-{self.digest[:8]}"


def decisive(config: TrainConfig) -> dict[str, Any]:
    """What decides the weights but for the teacher, whose digest is known only once it is trained."""
    return {name: value for name, value in config.decisive().items() if name != "teacher_sha256"}
