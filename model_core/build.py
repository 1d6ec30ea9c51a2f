"""From a spec to a model. A builder makes the blocks of one family; add yours to the mapping you pass in."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from types import MappingProxyType

from model_core.errors import SpecError
from model_core.grouped import HierarchicalEnsemble
from model_core.layers import Block
from model_core.mobilenet import mobilenet_blocks
from model_core.resnet import resnet_blocks
from model_core.spec import ModelSpec
from model_core.transformer import transformer_blocks

__all__ = ["BUILDERS", "Builder", "build_model"]

Builder = Callable[[ModelSpec], Sequence[Block]]

BUILDERS: Mapping[str, Builder] = MappingProxyType(
    {"resnet": resnet_blocks, "mobilenetv2": mobilenet_blocks, "transformer": transformer_blocks}
)


def build_model(spec: ModelSpec, builders: Mapping[str, Builder] = BUILDERS) -> HierarchicalEnsemble:
    """A freshly initialised model; every branch has weights of its own. Randomness from torch's global seed.

    Raises:
        SpecError: no builder for the spec's family, or rows it cannot build.
    """
    try:
        builder = builders[spec.family]
    except KeyError:
        raise SpecError(
            f"no builder for the family {spec.family!r} of {spec.name!r}; known: {', '.join(builders)}. "
            "A family of your own goes into the `builders` mapping (see model_core.custom)."
        ) from None
    return HierarchicalEnsemble(spec, builder(spec))
