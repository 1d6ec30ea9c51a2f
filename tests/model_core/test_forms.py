"""The most important test of the project: grouped and depth-first evaluation are the same function.

Both are also held against a third way that knows nothing of groups or kept activations: each leaf as a
plain chain of its own nodes, root to leaf.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from model_core.depth_first import evaluate_segments, refine, segment_module
from model_core.errors import SpecError
from model_core.folding import folded
from model_core.grouped import HierarchicalEnsemble, prefix_means
from model_core.layers import ConvNorm
from model_core.tree import Segment
from model_core.zoo import TABLE_3
from tests.models import calibrated_model

MODELS: dict[str, dict[str, Any]] = {
    "hne": {"name": "hne"},
    "hne_small": {"name": "hne_small"},
    "hne_tiny": {"name": "hne_tiny"},
    "multi_branch": {"name": "hne_tiny", "branching": (1, 1, 1, 16, 1)},
    "independent": {"name": "hne_tiny", "branching": (16, 1, 1, 1, 1)},
    "two_trees": {"name": "hne_tiny", "branching": (2, 1, 2, 2, 1)},
    "ternary": {"name": "hne_tiny", "branching": (1, 3, 1, 2, 1)},
    # all rows of Table 3 at an eighth of the channels and a smaller image, to keep the test light
    "hne_mobilenetv2": {
        "name": "hne_mobilenetv2",
        "input_shape": (3, 64, 64),
        "classes": 10,
        "rows": tuple(tuple(row._replace(channels=row.channels // 8) for row in block) for block in TABLE_3),
    },
    "hne_transformer": {"name": "hne_transformer"},
}


@pytest.fixture(scope="module", params=MODELS)
def model(request: pytest.FixtureRequest) -> HierarchicalEnsemble:
    return calibrated_model(**MODELS[request.param])


@pytest.fixture(scope="module")
def images(model: HierarchicalEnsemble) -> Tensor:
    return torch.randn(3, *model.spec.input_shape, generator=torch.Generator().manual_seed(7))


@pytest.fixture(scope="module")
def leaf_logits(model: HierarchicalEnsemble, images: Tensor) -> Tensor:
    with torch.inference_mode():
        logits: Tensor = model(images)
    return logits


def walk(model: HierarchicalEnsemble, images: Tensor, leaf: int) -> Tensor:
    """Logits (B, K) of one leaf as a chain of single nodes."""
    x = images
    for node in model.tree.leaf_path(leaf):
        x = model.block(node.block).select(range(node.k, node.k + 1), parents=1)(x)
    return x


def close(ours: Tensor, theirs: Tensor) -> bool:
    return torch.allclose(ours, theirs, rtol=0, atol=1e-4 * max(1.0, theirs.abs().max().item()))


def test_depth_first_equals_grouped_at_every_ensemble_size(
    model: HierarchicalEnsemble, images: Tensor, leaf_logits: Tensor
) -> None:
    outputs = list(refine(model, images))
    assert len(outputs) == model.tree.leaves
    for y, expected in zip(outputs, prefix_means(leaf_logits), strict=True):
        assert close(y, expected)


def test_every_leaf_is_the_chain_of_its_own_nodes(
    model: HierarchicalEnsemble, images: Tensor, leaf_logits: Tensor
) -> None:
    with torch.inference_mode():
        for leaf in range(model.tree.leaves):
            assert close(leaf_logits[leaf], walk(model, images, leaf))


def test_leaves_differ(leaf_logits: Tensor) -> None:
    flat = leaf_logits.flatten(1)
    distances = torch.cdist(flat, flat) + torch.eye(len(flat)) * 1e9
    assert distances.min() > 1e-2


def wide_walks(model: HierarchicalEnsemble) -> Iterator[list[Segment]]:
    """For every width, a walk that takes it wherever it can."""
    tree = model.tree
    for width in tree.nested_sizes():
        walk, leaf = [], 0
        while leaf < tree.leaves:
            walk.append(tree.segment(leaf, max(w for w in tree.widths(leaf) if w <= width)))
            leaf = walk[-1].stop
        yield walk


def test_segments_of_every_width_give_the_same_leaves(
    model: HierarchicalEnsemble, images: Tensor, leaf_logits: Tensor
) -> None:
    for walk_ in wide_walks(model):
        logits = torch.cat([logits for _, logits in evaluate_segments(model, images, walk_)])
        assert close(logits, leaf_logits)


def test_folding_batch_norm_changes_nothing(model: HierarchicalEnsemble, images: Tensor, leaf_logits: Tensor) -> None:
    inference = folded(model)
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in inference.modules())
    with torch.inference_mode():
        assert close(inference(images), leaf_logits)
    assert close(list(refine(inference, images))[-1], leaf_logits.mean(0))


def test_folding_leaves_the_original_alone(tiny_model: HierarchicalEnsemble) -> None:
    before = {name: tensor.clone() for name, tensor in tiny_model.state_dict().items()}
    folded(tiny_model)
    assert tiny_model.state_dict().keys() == before.keys()
    assert all(torch.equal(tensor, before[name]) for name, tensor in tiny_model.state_dict().items())
    assert any(isinstance(module, ConvNorm) and module.conv.bias is None for module in tiny_model.modules())


def test_the_depth_first_form_shares_the_weights(tiny_model: HierarchicalEnsemble) -> None:
    step = segment_module(tiny_model, Segment(0))
    shared = {tensor.untyped_storage().data_ptr() for tensor in tiny_model.state_dict().values()}
    assert {tensor.untyped_storage().data_ptr() for tensor in step.state_dict().values()} <= shared


def test_segments_must_follow_one_another(tiny_model: HierarchicalEnsemble) -> None:
    with pytest.raises(ValueError, match="does not follow 0 evaluated leaves"):
        list(evaluate_segments(tiny_model, torch.zeros(1, 3, 32, 32), [Segment(1)]))


def test_a_segment_that_does_not_exist_is_refused(tiny_model: HierarchicalEnsemble) -> None:
    with pytest.raises(SpecError, match="no segment of 4 leaves starts at leaf 2"):
        segment_module(tiny_model, Segment(2, 4))


def test_real_images_agree_too(tiny_model: HierarchicalEnsemble, cifar_folder: Path) -> None:
    from PIL import Image
    from torchvision.transforms.functional import to_tensor

    files = sorted((cifar_folder / "test").rglob("*.jpg"))[::1000]
    images = torch.stack([to_tensor(Image.open(file)) for file in files]) * 4 - 2
    with torch.inference_mode():
        expected = prefix_means(tiny_model(images))
    for y, theirs in zip(refine(tiny_model, images), expected, strict=True):
        assert close(y, theirs)
