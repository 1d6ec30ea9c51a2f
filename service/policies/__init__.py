"""Scheduling policies: pure functions from a `service.scheduler.Situation` to a `Decision`."""

from service.policies.anytime import Anytime

__all__ = ["Anytime"]
