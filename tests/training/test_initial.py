"""Starting from a run's or a package's weights: the same network, or an ensemble grown from a single one."""

import re
import shutil
from pathlib import Path

import pytest
import torch

from model_core.build import build_model
from model_core.errors import CheckpointError, PackageError
from model_core.grouped import HierarchicalEnsemble
from model_core.package import WEIGHTS
from model_core.zoo import architecture
from tests.models import calibrated_model
from tests.packages import install, site
from training.errors import ConfigError
from training.initial import NOISE, remarks, start_from
from training.run_state import Trained, trained_model

SINGLE = (1, 1, 1, 1, 1)


def fresh(**changes: object) -> HierarchicalEnsemble:
    torch.manual_seed(1)
    return build_model(architecture("hne_tiny").replace(**changes)).eval()


@torch.inference_mode()
def logits(model: HierarchicalEnsemble) -> torch.Tensor:
    result: torch.Tensor = model(torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(2)))
    return result


def test_the_same_tree_starts_with_the_same_outputs(tiny_model: HierarchicalEnsemble) -> None:
    model = fresh()
    start_from(model, tiny_model)
    torch.testing.assert_close(logits(model), logits(tiny_model))


@pytest.mark.parametrize("branching", [SINGLE, (1, 2, 2, 1, 1)])
def test_a_smaller_tree_grows_into_leaves_that_resemble_it_and_differ(branching: tuple[int, ...]) -> None:
    small, model = calibrated_model("hne_tiny", branching=branching), fresh()
    start_from(model, small)
    before, after = logits(small), logits(model)
    copies = len(after) // len(before)
    torch.testing.assert_close(after[0], before[0])
    assert torch.unique(after, dim=0).shape == after.shape, "no two leaves are equal"
    nearest = torch.cdist(after.flatten(1), before.flatten(1)).argmin(dim=1)
    assert nearest.tolist() == [leaf // copies for leaf in range(16)]


def test_copies_are_moved_by_a_part_of_the_weights_own_scale() -> None:
    small, model = calibrated_model("hne_tiny", branching=SINGLE), fresh()
    start_from(model, small)
    name = "layers.0.body.0.conv.weight"
    source, (first, second) = (
        small.block(1).state_dict()[name],
        model.block(1).state_dict()[name].chunk(2),
    )
    assert torch.equal(first, source)
    assert (second - source).std() / source.std() == pytest.approx(NOISE, rel=0.3)


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"input_shape": (3, 64, 64)}, "its weights are of hne_tiny, another network"),
        ({"branching": (1, 2, 2, 2, 6)}, "block 4 has 48 nodes there, which cannot become 16 here"),
    ],
)
def test_another_network_is_refused(changes: dict[str, object], fault: str) -> None:
    with pytest.raises(ConfigError, match=fault):
        start_from(fresh(), fresh(**changes))


def test_a_network_of_another_family_is_refused_as_such() -> None:
    with pytest.raises(ConfigError, match="its weights are of hne_transformer, another network"):
        start_from(fresh(), build_model(architecture("hne_transformer")))


@pytest.mark.parametrize("branching", [SINGLE, (1, 2, 2, 2, 2)])
def test_with_other_classes_all_but_the_classifiers_is_taken_over(branching: tuple[int, ...]) -> None:
    source, model, untouched = calibrated_model("hne_tiny", branching=branching), fresh(classes=7), fresh(classes=7)
    start_from(model, source, same_classes=False)
    grown = fresh()
    start_from(grown, source)
    classifier = {"blocks.4.layers.5.2.weight", "blocks.4.layers.5.2.bias"}
    for name, tensor in model.state_dict().items():
        expected = untouched if name in classifier else grown
        if name in classifier or branching != SINGLE:  # where it grows, other noise is drawn
            assert tensor.equal(expected.state_dict()[name]), name
    assert classifier < model.state_dict().keys()


def test_the_same_number_of_other_classes_keeps_its_classifiers(tiny_model: HierarchicalEnsemble) -> None:
    model, untouched = fresh(), fresh()
    start_from(model, tiny_model, same_classes=False)
    for name, tensor in model.block(4).state_dict().items():
        expected = untouched if name.startswith("layers.5") else tiny_model
        assert tensor.equal(expected.block(4).state_dict()[name]), name


READS_NUMBERS = """
import torch
from torch import nn

from model_core.custom import replicated
from model_core.spec import ModelSpec

SPEC = ModelSpec(name="mine", family="mine", branching=(1, 2), classes=10, input_shape=(3, 4, 4))


def blocks(spec):
    first, second = (rate.item() for rate in torch.linspace(0.1, 0.2, 2))
    head = lambda: nn.Sequential(nn.Dropout(second), nn.Flatten(), nn.Linear(16, spec.classes))
    return replicated(spec, [lambda: nn.Sequential(nn.Dropout(first), nn.Conv2d(3, 1, 1)), head])
"""


def test_a_network_whose_builder_reads_numbers_can_start_from_another(tmp_path: Path) -> None:
    declared = {
        "hne_serve.architectures": {"mine": "reads_numbers:SPEC"},
        "hne_serve.families": {"mine": "reads_numbers:blocks"},
    }
    install(tmp_path, "reads_numbers", {"reads_numbers.py": READS_NUMBERS}, declared)
    with site(tmp_path):
        model, source = (build_model(architecture("mine").replace(classes=classes)) for classes in (7, 10))
        before = torch.get_rng_state()
        start_from(model, source)
    assert torch.get_rng_state().equal(before), "no random number is drawn for what has the same shape"
    assert model.block(0).state_dict().keys() == source.block(0).state_dict().keys()
    for name, tensor in source.block(0).state_dict().items():
        assert tensor.equal(model.block(0).state_dict()[name])
    assert {len(tensor) for tensor in model.block(1).state_dict().values()} == {7}


def test_separate_modules_cannot_grow() -> None:
    models = [build_model(architecture("hne_transformer", branching=(1, 1, 1, n))) for n in (2, 1)]
    with pytest.raises(ConfigError, match=r"block 3 has 1 nodes there, which cannot become 2 here: .*ReplicatedBlock"):
        start_from(*models)


@pytest.mark.parametrize(
    ("class_names", "held_out", "remark"),
    [
        (("cat", "dog"), 0.1, None),
        (("cat", "dog"), 0.2, "it has seen images held out here, .* use --held-out 0.1"),
        (("dog", "cat"), 0.2, "its classes are others: the classifiers start anew"),
    ],
)
def test_other_data_is_remarked_on(class_names: tuple[str, ...], held_out: float, remark: str | None) -> None:
    source = Trained(fresh(classes=2), ("cat", "dog"), 0.1)
    found = list(remarks(source, class_names=class_names, held_out=held_out))
    assert len(found) == (remark is not None)
    assert remark is None or re.search(remark, found[0])


def test_a_package_is_as_good_a_start_as_the_run_that_it_came_from(
    tiny_package: Path, tiny_model: HierarchicalEnsemble
) -> None:
    torch.testing.assert_close(logits(trained_model(tiny_package).model), logits(tiny_model))


def test_a_damaged_package_is_no_start(tiny_package: Path, tmp_path: Path) -> None:
    package = shutil.copytree(tiny_package, tmp_path / "package")
    weights = package / WEIGHTS
    weights.write_bytes(weights.read_bytes()[:-1])
    with pytest.raises(PackageError, match=WEIGHTS):
        trained_model(package)


def test_an_empty_folder_is_no_start(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"run\.safetensors: does not exist"):
        trained_model(tmp_path)
