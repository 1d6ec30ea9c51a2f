"""Specs travel as JSON and refuse what they do not know."""

import pytest
from pydantic import ValidationError

from model_core.errors import SpecError
from model_core.spec import ModelSpec
from model_core.zoo import ARCHITECTURES, architecture


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_a_spec_survives_json(name: str) -> None:
    spec = architecture(name)
    assert ModelSpec.model_validate_json(spec.model_dump_json()) == spec


def test_unknown_fields_are_refused() -> None:
    fields = architecture("hne").model_dump() | {"depth": 50}
    with pytest.raises(ValidationError, match="depth"):
        ModelSpec.model_validate(fields)


def test_rows_and_branching_must_agree() -> None:
    with pytest.raises(SpecError, match=r"^hne: 5 blocks of rows, but 2 branching factors$"):
        architecture("hne").replace(branching=(1, 2))
    with pytest.raises(SpecError, match=r"^hne: classes: "):
        architecture("hne", classes=1)


def test_an_unknown_architecture_lists_the_known_ones() -> None:
    with pytest.raises(SpecError, match=r"unknown architecture 'hne50'; known: hne, hne_small, hne_tiny"):
        architecture("hne50")


def test_classes_and_branching_can_be_changed() -> None:
    spec = architecture("hne_small", classes=100, branching=(1, 1, 1, 16, 1))
    assert (spec.classes, spec.tree.leaves) == (100, 16)
