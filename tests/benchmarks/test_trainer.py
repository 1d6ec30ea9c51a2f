"""The trainer's benchmark: its variants compute the same step, and are timed as the trainer runs them."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch

from benchmarks.trainer import EAGER, measure, with_batched_pointwise
from tests.models import calibrated_model
from training.config import TrainConfig


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format], ids=["last", "contiguous"])
def test_batched_products_compute_what_grouped_convolutions_do(layout: torch.memory_format) -> None:
    grouped, batched = calibrated_model("hne_tiny"), calibrated_model("hne_tiny")
    # Both 1x1 convolutions of every bottleneck on more than one branch, and the projections that leave a split.
    assert with_batched_pointwise(batched) > 2 * 11
    images = torch.randn(2, 3, 32, 32).contiguous(memory_format=layout)
    with torch.no_grad():
        torch.testing.assert_close(batched(images), grouped(images), atol=1e-4, rtol=1e-4)
    assert [name for name, _ in batched.named_parameters()] == [name for name, _ in grouped.named_parameters()]


def test_variants_are_timed(tmp_path: Path) -> None:
    config = TrainConfig(architecture="hne_tiny", batch_size=2, device="cpu", precision="float32").resolved()
    started = time.perf_counter()
    rows = measure(config, EAGER, steps=1, warm_up=1, repeats=2, out=tmp_path)
    elapsed = time.perf_counter() - started
    assert [row["variant"] for row in rows] == ["plain", "channels-last", "products"]
    assert all(0 < row["least"] <= row["images_per_second"] <= row["most"] for row in rows)
    assert sum(2 * 2 / row["most"] for row in rows) < elapsed, "two steps of two images each"
