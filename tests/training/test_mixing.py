"""Mixed images carry the labels of what is in them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from training.mixing import mixed

CLASSES = 4


@pytest.fixture
def images() -> Tensor:
    """Four images, each one colour: its number."""
    return torch.arange(4.0)[:, None, None, None].expand(4, 3, 8, 8).contiguous(memory_format=torch.channels_last)


def draws(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("how", ["mixup", "cutmix"])
def test_labels_are_in_the_proportion_of_the_pixels(how: str, seed: int, images: Tensor) -> None:
    labels = torch.arange(4)
    before = images.clone()
    result, targets = mixed(images, labels, how=how, share=1.0, classes=CLASSES, draws=draws(seed))  # type: ignore[arg-type]
    torch.testing.assert_close(result.mean((1, 2, 3)), targets @ torch.arange(4.0))
    torch.testing.assert_close(targets.sum(1), torch.ones(4))
    assert targets[1].count_nonzero() == 2
    assert targets[1][:2].count_nonzero() == 2
    assert images.equal(before)


def test_cutmix_pastes_whole_pixels_and_mixup_none(images: Tensor) -> None:
    labels = torch.arange(4)
    pasted, _ = mixed(images, labels, how="cutmix", share=1.0, classes=CLASSES, draws=draws(0))
    added, _ = mixed(images, labels, how="mixup", share=1.0, classes=CLASSES, draws=draws(0))
    assert set(pasted[1].flatten().tolist()) == {0.0, 1.0}
    assert len(set(added[1].flatten().tolist())) == 1


def test_the_share_of_mixed_batches(images: Tensor) -> None:
    labels = torch.arange(4)
    results = [
        mixed(images, labels, how="mixup", share=0.25, classes=CLASSES, draws=draws(seed)) for seed in range(400)
    ]
    plain = [targets for found, targets in results if found is images]
    assert 270 < len(plain) < 330
    assert all(targets.equal(torch.eye(CLASSES)) for targets in plain)
    same, untouched = mixed(images, labels, how="off", share=1.0, classes=CLASSES, draws=draws(0))
    assert same is images
    assert untouched is labels
