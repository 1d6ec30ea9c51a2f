"""Scheduling policies: functions from a `service.scheduler.Situation` to a `Decision`, and their names."""

from service.policies.anytime import Anytime
from service.policies.fixed import FixedSize, Replan
from service.policies.names import NAMES, parse_policy
from service.policies.slack import MostAccurate, SlackFit

__all__ = ["NAMES", "Anytime", "FixedSize", "MostAccurate", "Replan", "SlackFit", "parse_policy"]
