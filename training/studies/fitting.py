"""Which arms of a study a network can have: each one's network is built, and grown where it is to be, before hours of
training go into the others."""

from __future__ import annotations

from dataclasses import replace

from model_core.build import build_model
from model_core.errors import SpecError
from model_core.grouped import HierarchicalEnsemble
from training.config import TrainConfig
from training.errors import ConfigError
from training.initial import check_start
from training.run import spec_of
from training.studies.study import Arm, Protocol, Study, planned

__all__ = ["fitted"]


def fitted(study: Study, protocol: Protocol) -> Study:
    """The study without the arms that an architecture cannot have.

    Raises:
        SpecError, ConfigError: an architecture cannot be used at all, or nothing is left to compare there.
    """
    models: dict[tuple[object, ...], HierarchicalEnsemble] = {}
    left_out: dict[tuple[str, str], str] = {}
    for architecture in protocol.architectures or study.architectures:
        _built(replace(protocol.base, architecture=architecture, loss="i"), models)
        faults = {
            arm.label: fault for arm in study.arms if (fault := _fault(arm, architecture, protocol, models)) is not None
        }
        if len(study.arms) - len(faults) < min(2, len(study.arms)):
            told = "; ".join(f"{label} ({fault})" for label, fault in faults.items())
            raise ConfigError(
                f"--architecture {architecture}: nothing is left of the study {study.name} without what it cannot "
                f"have: {told}"
            )
        left_out |= {(architecture, label): fault for label, fault in faults.items()}
    return replace(study, left_out=left_out)


def _fault(
    arm: Arm, architecture: str, protocol: Protocol, models: dict[tuple[object, ...], HierarchicalEnsemble]
) -> str | None:
    """Why an arm's runs, or those that they need, cannot be; None where they can."""
    try:
        run = planned(arm, architecture, protocol)[0]
        for one in run.needed:
            model = _built(one.config, models)
            if one.initial is not None:
                check_start(model, _built(one.initial.config, models))
            if one.teacher is not None and spec_of(one.teacher.config).input_shape != model.spec.input_shape:
                raise ConfigError(f"{one.teacher.config.architecture} cannot teach it: it takes images of another size")
    except (ConfigError, SpecError) as error:
        return str(error)
    return None


def _built(config: TrainConfig, models: dict[tuple[object, ...], HierarchicalEnsemble]) -> HierarchicalEnsemble:
    """A run's network, built once. Not on "meta": a network of one's own may read numbers while it is built."""
    spec = spec_of(config)
    key = config.architecture, config.branching
    if key not in models:
        models[key] = build_model(spec)
    return models[key]
