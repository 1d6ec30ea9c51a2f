"""Names from installed distributions: found without an import, imported when asked for, faults in one line."""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from model_core.build import BUILDERS, build_model
from model_core.checkpoint import load_checkpoint, save_checkpoint
from model_core.errors import SpecError
from model_core.spec import ModelSpec
from model_core.zoo import ARCHITECTURES, architecture
from tests import packages
from tests.packages import install

SPEC = 'SPEC = ModelSpec(name="{0}", family="{0}", branching=(1, 2), classes=4, input_shape=(1, 4, 4))'
NETWORK = f"""
import torch
from torch import nn
from model_core.custom import replicated
from model_core.spec import ModelSpec

{SPEC.format("scaled")}
SCALE = torch.tensor([0.5])  # made while this module is imported


class Scaled(nn.Flatten):
    def __init__(self):
        super().__init__()
        self.register_buffer("shift", torch.arange(16.0), persistent=False)  # in no checkpoint

    def forward(self, x):
        return super().forward(x) * SCALE + self.shift


def blocks(spec):
    return replicated(spec, [Scaled, lambda: nn.Linear(16, spec.classes)])
"""
ARCHITECTURE, FAMILY = "hne_serve.architectures", "hne_serve.families"


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Path]:
    with packages.site(tmp_path) as root:
        yield root


def test_a_declared_network_is_built_by_name_and_its_checkpoint_rebuilds_it(site: Path) -> None:
    points = {ARCHITECTURE: {"scaled": "scaled:SPEC"}, FAMILY: {"scaled": "scaled:blocks"}}
    install(site, "scaled", {"scaled.py": NETWORK}, points)
    assert {"hne", "scaled"} <= set(ARCHITECTURES)
    assert {"resnet", "scaled"} <= set(BUILDERS)
    assert "scaled" in ARCHITECTURES
    assert "scaled" not in sys.modules, "a list of names imports nothing"
    architecture("hne")
    assert "scaled" not in sys.modules, "nor does another name"

    model = build_model(architecture("scaled", classes=3)).eval()
    save_checkpoint(site / "model.safetensors", model)
    del sys.modules["scaled"]  # as in another process, which imports it while it rebuilds the model
    loaded, _ = load_checkpoint(site / "model.safetensors")
    images = torch.randn(2, 1, 4, 4)
    with torch.inference_mode():
        assert torch.equal(loaded(images), model(images))


def test_an_unknown_family_says_what_is_missing(site: Path) -> None:
    install(site, "other", {}, {FAMILY: {"theirs": "theirs:blocks"}})
    spec = ModelSpec(name="mine", family="mlp", branching=(1, 2), classes=4, input_shape=(1, 4, 4))
    known = "known: resnet, mobilenetv2, transformer, theirs. Is the package"
    with pytest.raises(SpecError, match=f"unknown family 'mlp' of 'mine'; {known}"):
        build_model(spec)


@pytest.mark.parametrize(
    ("source", "fault"),
    [
        (None, r"cannot be imported \(ModuleNotFoundError: No module named 'mine'\)"),
        ("import nowhere_to_be_found", r"cannot be imported \(ModuleNotFoundError: .*nowhere_to_be_found"),
        ("raise RuntimeError('one\\n  two')", r"cannot be imported \(RuntimeError: one two\)"),
        ("OTHER = 1", r"cannot be imported \(AttributeError: .*SPEC"),
        ("def SPEC(): ...", "is of type function, which is no architecture"),
    ],
)
def test_a_package_that_cannot_be_used_is_named(site: Path, source: str | None, fault: str) -> None:
    install(site, "mine", {} if source is None else {"mine.py": source}, {ARCHITECTURE: {"mine": "mine:SPEC"}})
    with pytest.raises(SpecError, match=rf"^architecture 'mine', declared by mine \(mine:SPEC\), {fault}") as caught:
        architecture("mine")
    assert "\n" not in str(caught.value)


def test_a_name_has_one_meaning(site: Path) -> None:
    install(site, "one", {}, {ARCHITECTURE: {"mine": "one:SPEC", "hne": "one:SPEC"}})
    install(site, "two", {}, {ARCHITECTURE: {"mine": "two:SPEC"}})
    with pytest.raises(
        SpecError, match=r"'mine', declared by (one|two) \(.*\) and by (one|two) \(.*uninstall the other"
    ):
        architecture("mine")
    with pytest.raises(
        SpecError, match=r"'hne', declared by one \(one:SPEC\), is built in already; give yours another"
    ):
        architecture("hne")


def test_names_and_architectures_that_are_data_need_no_torch(site: Path) -> None:
    data = f"from model_core.spec import ModelSpec\n{SPEC.format('data')}"
    install(site, "data", {"data.py": data}, {ARCHITECTURE: {"data": "data:SPEC"}})
    program = (
        f"import sys; sys.path.insert(0, {str(site)!r})\n"
        "from model_core import ARCHITECTURES, architecture\n"
        "assert 'data' in list(ARCHITECTURES) and architecture('data').classes == 4\n"
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
