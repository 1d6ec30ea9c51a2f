"""How fast the trainer trains, in variants of how its step is computed; all in one run on one machine.

    python -m benchmarks.trainer --architecture hne_small --batch-size 128 --steps 50

Every variant does the trainer's own steps (augmentation, forward, loss, backward, update) on random images, in another
way of computing the forward pass, with the same weights:

- plain: eager grouped convolutions on contiguous activations, as a trainer without any care;
- channels-last: the same on channels-last activations;
- products: that, with pointwise convolutions as batched matrix products over the groups;
- group-major: the layout of `model_core.group_major`;
- compiled: any of the last three through torch.compile; graphs: group-major so, in CUDA graphs.

Variants take turns, so that a machine's moods meet all of them; a compiled variant warms up before it is timed.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import chain, count
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.command import add_output, positive_int, run
from benchmarks.conditions import machine
from model_core.grouped import HierarchicalEnsemble
from model_core.package import Preprocessing
from training.config import TrainConfig
from training.data import ImageDataset
from training.images import DeviceImages
from training.run import begin, device_of, spec_of
from training.step import Computation, StepLoss
from training.trainer import RunOptions, Trainer

__all__ = ["BatchedPointwise", "Variant", "measure", "with_batched_pointwise"]


EAGERLY = Computation()


@dataclass(frozen=True, slots=True, kw_only=True)
class Variant:
    """One way of computing the same step."""

    computation: Computation = EAGERLY
    channels_last: bool = True
    products: bool = False


EAGER = {
    "plain": Variant(channels_last=False),
    "channels-last": Variant(),
    "products": Variant(products=True),
}
COMPILED = {
    "compiled channels-last": Variant(computation=Computation(compiled=True)),
    "compiled products": Variant(computation=Computation(compiled=True), products=True),
    "compiled group-major": Variant(computation=Computation(compiled=True, group_major=True)),
    "compiled group-major, graphs": Variant(computation=Computation(compiled=True, group_major=True, graphs=True)),
}
VARIANTS = EAGER | COMPILED


class BatchedPointwise(nn.Module):
    """A grouped 1x1 convolution without padding as one batched matrix product, with the convolution's weight.

    (B, G*C, H, W) -> (B, G*D, H', W').
    """

    def __init__(self, convolution: nn.Conv2d) -> None:
        super().__init__()
        self.weight, self.groups, self.stride = convolution.weight, convolution.groups, convolution.stride

    def forward(self, x: Tensor) -> Tensor:
        vertical, horizontal = self.stride
        x = x[:, :, ::vertical, ::horizontal]
        batch, _, height, width = x.shape
        weight_gdc = self.weight.view(self.groups, -1, self.weight.shape[1])
        if not x.is_contiguous(memory_format=torch.channels_last):
            y_bgdp = weight_gdc @ x.reshape(batch, self.groups, -1, height * width)
            return y_bgdp.view(batch, -1, height, width)
        # The groups lie side by side in every pixel: a product reads them in place, only the result is moved.
        x_gpc = x.permute(0, 2, 3, 1).reshape(batch * height * width, self.groups, -1).transpose(0, 1)
        y_gpd = torch.bmm(x_gpc, weight_gdc.transpose(1, 2))
        return y_gpd.transpose(0, 1).reshape(batch, height, width, -1).permute(0, 3, 1, 2)


def with_batched_pointwise(model: HierarchicalEnsemble) -> int:
    """Replace a model's grouped pointwise convolutions, in place. Returns how many."""
    replaced = 0
    for module in list(model.modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.Conv2d) and child.kernel_size == (1, 1) and 1 < child.groups < child.in_channels:
                setattr(module, name, BatchedPointwise(child))
                replaced += 1
    return replaced


def measure(
    config: TrainConfig, variants: Mapping[str, Variant], *, steps: int, warm_up: int, repeats: int, out: Path
) -> list[dict[str, Any]]:
    """Images per second of each variant: median, least and most over the repeats."""
    device = device_of(config)
    runs = [_Run(config, variant, device, out) for variant in variants.values()]
    for each in runs:
        each.seconds(warm_up)
    assert config.batch_size is not None
    speeds: list[list[float]] = [[] for _ in runs]
    for _ in range(repeats):
        for each, found in zip(runs, speeds, strict=True):
            found.append(steps * config.batch_size / each.seconds(steps))
    return [
        {"variant": name, "images_per_second": median(found), "least": min(found), "most": max(found)}
        for name, found in zip(variants, speeds, strict=True)
    ]


class _Run:
    """A trainer that computes its steps in one way."""

    def __init__(self, config: TrainConfig, variant: Variant, device: torch.device, out: Path) -> None:
        data = _random_images(config, device)
        state = begin(config, data)
        if variant.products:
            with_batched_pointwise(state.model)
        self._layout = torch.channels_last if variant.channels_last else torch.contiguous_format
        self._trainer = Trainer(state, data, RunOptions(out=out), device)
        model = self._trainer.model.to(memory_format=self._layout)
        self._trainer.loss = StepLoss(model, config, device, variant.computation)
        model.train()
        self._batches = self._endless(data, config)

    def seconds(self, steps: int) -> float:
        """The time that some more steps take."""
        self._wait()
        begun = time.perf_counter()
        for _, (images, labels) in zip(range(steps), self._batches, strict=False):
            self._trainer.train_step(images.contiguous(memory_format=self._layout), labels)
        self._wait()
        return time.perf_counter() - begun

    def _wait(self) -> None:
        if self._trainer.device.type == "cuda":
            torch.cuda.synchronize(self._trainer.device)

    @staticmethod
    def _endless(data: ImageDataset, config: TrainConfig) -> Iterator[tuple[Tensor, Tensor]]:
        assert config.batch_size is not None
        epochs = (data.train.training_batches(config.batch_size, seed=0, epoch=epoch) for epoch in count())
        return chain.from_iterable(epochs)


def _random_images(config: TrainConfig, device: torch.device) -> ImageDataset:
    """Four batches of noise of the architecture's size, on the device; speed does not depend on what they show."""
    spec, random = spec_of(config), torch.Generator().manual_seed(config.seed)
    assert config.batch_size is not None
    images = 4 * config.batch_size
    pixels = torch.randint(256, (images, *spec.input_shape), generator=random, dtype=torch.uint8).to(device)
    labels = torch.randint(spec.classes, (images,), generator=random).to(device)
    preprocessing = Preprocessing(resize_to_cover=(32, 32), mean=(0.5, 0.5, 0.5), std=(0.25, 0.25, 0.25))
    split = DeviceImages(pixels, labels, preprocessing)
    names = tuple(str(label) for label in range(spec.classes))
    return ImageDataset(train=split, held_out=split, test=split, class_names=names, preprocessing=preprocessing)


def main() -> None:
    """Run and report."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--architecture", default="hne_small")
    parser.add_argument("--batch-size", type=positive_int, default=128)
    parser.add_argument("--precision", choices=("bf16", "float32"), default="bf16")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--threads", type=positive_int)
    parser.add_argument("--steps", type=positive_int, default=50, help="steps per timing (default: 50)")
    parser.add_argument("--warm-up", type=positive_int, default=10, help="steps before (default: 10)")
    parser.add_argument("--repeats", type=positive_int, default=3)
    parser.add_argument("--variants", choices=list(VARIANTS), nargs="+", help="default: all; graphs on a GPU only")
    add_output(parser, "trainer.json")
    given = parser.parse_args()
    config = TrainConfig(
        architecture=given.architecture,
        batch_size=given.batch_size,
        precision=given.precision,
        device=given.device,
        threads=given.threads,
    ).resolved()
    device = device_of(config)
    possible = [name for name, variant in VARIANTS.items() if device.type == "cuda" or not variant.computation.graphs]
    variants = {name: VARIANTS[name] for name in given.variants or possible}
    with tempfile.TemporaryDirectory() as out:
        rows = measure(config, variants, steps=given.steps, warm_up=given.warm_up, repeats=given.repeats, out=Path(out))
    host = machine()
    report = {
        "benchmark": "trainer",
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else host["processor"],
        "machine": host,
        "settings": {name: str(value) for name, value in vars(given).items() if name != "output"},
        "rows": rows,
    }
    given.output.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    first = rows[0]["images_per_second"]
    print(f"{report['device']}, {given.architecture}, batches of {given.batch_size}, {given.precision}")
    print("| variant | images/s | least to most | times the first |")
    print("|---|---:|---:|---:|")
    for row in rows:
        speed = row["images_per_second"]
        words = [row["variant"], f"{speed:,.0f}", f"{row['least']:,.0f} to {row['most']:,.0f}", f"{speed / first:.2f}"]
        print(f"| {' | '.join(words)} |")


if __name__ == "__main__":
    run(main)
