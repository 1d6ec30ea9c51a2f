"""The names of the policies, as flags and benchmarks give them."""

from __future__ import annotations

import re
from collections.abc import Sequence

from model_core.package import EnsembleFigures
from service.errors import SettingsError
from service.policies.anytime import Anytime
from service.policies.fixed import FixedSize, Replan
from service.policies.slack import MostAccurate, SlackFit
from service.scheduler import Policy

__all__ = ["NAMES", "parse_policy"]

NAMES = ("anytime", "fixed:N", "most_accurate_that_fits", "slackfit", "replan")
"""What can be asked for; N is an ensemble size. All take a safety margin, as in `slackfit@1.5`."""

_FORM = re.compile(r"(?P<name>[a-z_]+)(:(?P<size>\d+))?(@(?P<margin>\d+(\.\d+)?))?")


def parse_policy(text: str, table: Sequence[EnsembleFigures]) -> Policy:
    """A new policy of that name for a model with these costs and accuracies per ensemble size.

    Raises:
        SettingsError: there is no such policy, or no such ensemble size.
    """
    leaves = len(table)
    match = _FORM.fullmatch(text)
    if match is None:
        raise _unknown(text)
    name, size, margin = match["name"], match["size"], float(match["margin"] or 1)
    if margin < 1:
        raise SettingsError(f"the safety margin of a policy must be at least 1, got {text!r}")
    if name == "fixed" and size is not None:
        if not 1 <= int(size) <= leaves:
            raise SettingsError(f"the ensemble size of fixed:N must be 1 to {leaves}, got {text!r}")
        return FixedSize(int(size), margin=margin)
    if size is None:
        match name:
            case "anytime":
                return Anytime(table, margin=margin) if match["margin"] else Anytime(table)
            case "most_accurate_that_fits":
                return MostAccurate(leaves, margin=margin)
            case "slackfit":
                return SlackFit(leaves, margin=margin)
            case "replan":
                return Replan(leaves, margin=margin)
    raise _unknown(text)


def _unknown(text: str) -> SettingsError:
    return SettingsError(
        f"there is no policy {text!r}; valid are {', '.join(NAMES)}, each also with a safety margin as in slackfit@1.5"
    )
