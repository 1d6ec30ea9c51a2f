"""From a spec to a model. A builder makes the blocks of one family, built in or of an installed distribution (see
`custom`)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch

from model_core.errors import SpecError
from model_core.grouped import HierarchicalEnsemble
from model_core.layers import Block
from model_core.mobilenet import mobilenet_blocks
from model_core.registry import Registry
from model_core.resnet import resnet_blocks
from model_core.spec import ModelSpec
from model_core.transformer import transformer_blocks

__all__ = ["BUILDERS", "Builder", "build_model"]

Builder = Callable[[ModelSpec], Sequence[Block]]

BUILDERS: Mapping[str, Builder] = Registry(
    "family",
    "hne_serve.families",
    {"resnet": resnet_blocks, "mobilenetv2": mobilenet_blocks, "transformer": transformer_blocks},
    accepts=callable,
)


def build_model(spec: ModelSpec) -> HierarchicalEnsemble:
    """A freshly initialised model; every branch has weights of its own. Randomness from torch's global seed.

    Raises:
        SpecError: no builder for the spec's family, one that cannot be imported, or rows it cannot build.
    """
    try:
        with torch.device("cpu"):  # what a module makes while it is imported is no part of a model on "meta"
            builder = BUILDERS[spec.family]
    except KeyError:
        raise SpecError(
            f"unknown family {spec.family!r} of {spec.name!r}; known: {', '.join(BUILDERS)}. "
            "Is the package that declares it installed here (see model_core.custom)?"
        ) from None
    return HierarchicalEnsemble(spec, builder(spec))
