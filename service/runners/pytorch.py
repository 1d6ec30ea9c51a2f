"""The runner for a GPU: PyTorch, with the activations of all slots on the device and one CUDA graph per segment and
batch size.

A step of a deep, narrow network is bound by launching its kernels, not by its FLOPs; a graph launches all of them at
once, with the gathering of the slots' activations before them and their scattering after them. So segments of every
width are offered: a whole subtree can cost little more than one leaf. Batches are padded to the next power of two, with
a row that belongs to nobody. On a CPU (for tests) the same code runs without graphs.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from model_core.checkpoint import load_checkpoint
from model_core.depth_first import SegmentModule
from model_core.errors import ModelError
from model_core.folding import folded
from model_core.grouped import HierarchicalEnsemble
from model_core.package import Package
from model_core.tree import Segment
from service.errors import RunnerError, SettingsError
from service.runners.activations import IMAGE, kept_shapes
from service.runners.base import Array, Rows, batch_of, padded
from service.runners.devices import EXTRA, first_line

__all__ = ["PRECISIONS", "PyTorchRunner"]

PRECISIONS: Mapping[str, torch.dtype] = {
    "float32": torch.float32,
    "bfloat16": torch.bfloat16,
    "float16": torch.float16,
}
CHECKED_IMAGES = 8
PRECISE = 0.2
"""How far logits in half precision may be from those in float32, relative to the largest; the shipped model's are 0.02
in bfloat16 and 0.004 in float16."""
WARM_UP = 2
"""Runs before a graph is captured: libraries choose their algorithms and allocate in them."""


class PyTorchRunner:
    """Computes all segments of a package's model, from its weights.

    `graphs` is for comparison: without, a GPU is told of every kernel anew. A CPU has none.

    `precision` is what weights and activations are held and computed in; logits come back in float32. Half of it is
    held against float32 on noise first: weights may be too large for float16, or too fine for bfloat16.

    Raises:
        RunnerError: the weights cannot be read.
        SettingsError: the device cannot be used, or the precision is too low for these weights.
    """

    def __init__(
        self,
        package: Package,
        *,
        device: str = "cuda",
        precision: str = "float32",
        max_batch: int = 128,
        graphs: bool = True,
    ) -> None:
        if torch.device(device).type == "cuda" and not torch.cuda.is_available():
            raise SettingsError(
                "runner cuda: PyTorch finds no GPU. It needs an NVIDIA GPU with its driver (does nvidia-smi list it?) "
                f"and a PyTorch built with CUDA ({EXTRA} brings one), no newer than the driver's (this one: "
                f"{torch.version.cuda or 'none'})"
            )
        self.name = f"pytorch-{device}"
        self.max_batch = max_batch
        self.pads = graphs and torch.device(device).type == "cuda"
        self.keeping_costs = False
        self._device, self._dtype = torch.device(device), PRECISIONS[precision]
        self._package = package
        self._input_shape = package.manifest.spec.input_shape
        try:
            model, _ = load_checkpoint(package.weights)
        except ModelError as error:
            raise RunnerError(package.weights, str(error)) from error
        if self._device.type == "cuda" and self._dtype is torch.float32:
            torch.backends.cudnn.allow_tf32 = False  # which convolutions would take by default
        inference = folded(model)
        expected = None if self._dtype is torch.float32 else self._logits_of_noise(inference)
        try:
            card = torch.cuda.get_device_name(self._device) if self._device.type == "cuda" else "cpu"
            # To the device before it is cut: all segments share one copy of the weights.
            self._model = inference.to(self._device, self._dtype).to(memory_format=torch.channels_last)
            if expected is not None:
                self._check_precision(expected, precision)
        except RuntimeError as error:
            raise SettingsError(f"runner cuda: the GPU cannot be used ({first_line(error)})") from error
        self.configuration = f"PyTorch {torch.__version__}, {card}, {precision}"
        self.segments = tuple(model.tree.segments())
        self._modules = {segment: SegmentModule(self._model, segment) for segment in self.segments}
        self._levels: dict[int, Tensor] = {}
        self._plans: dict[tuple[Segment, int], _Plan] = {}

    @torch.inference_mode()
    def reserve(self, slots: int) -> int:
        """See `Runner.reserve`; captures the graphs, largest first, which takes some seconds."""
        shapes = kept_shapes(self._model.tree, self._activation_shapes(), self._input_shape)
        try:
            self._levels = {
                level: torch.zeros((slots + 1, *_stored(shape)), dtype=self._dtype, device=self._device)
                for level, shape in shapes.items()
            }
        except torch.OutOfMemoryError as error:
            raise SettingsError(f"max_active: there is no memory for {slots} slots ({first_line(error)})") from error
        if self.pads:
            try:
                self._capture()
            except RuntimeError as error:
                raise SettingsError(
                    f"max_batch: no CUDA graphs for batches of up to {self.max_batch} ({first_line(error)})"
                ) from error
        return sum(level.nbytes for level in self._levels.values())

    @torch.inference_mode()
    def run(self, segment: Segment, rows: Rows, images: Array | None = None, *, until: int | None = None) -> Array:
        """See `Runner.run`; everything is kept."""
        batch = batch_of(rows)
        try:
            plan = self._plans[segment, padded(batch)] if self.pads else self._plan(segment, batch)
            plan.fill(rows, images)
            logits: Array = plan().narrow(1, 0, batch).cpu().numpy()  # waits for the device
        except (RuntimeError, ValueError) as error:  # the latter of NumPy, for images of another shape
            raise RunnerError(self._package.weights, f"{segment}: {first_line(error)}") from error
        return logits

    def close(self) -> None:
        """Free the graphs and the activations; the weights go with the runner."""
        self._plans.clear()
        self._modules.clear()
        self._levels.clear()

    def _capture(self) -> None:
        pool, stream = torch.cuda.graph_pool_handle(), torch.cuda.Stream()  # type: ignore[no-untyped-call]
        for bucket in reversed(_buckets(self.max_batch)):
            for segment in self.segments:
                self._plans[segment, bucket] = self._plan(segment, bucket)
                self._plans[segment, bucket].capture(pool, stream)

    @torch.inference_mode()
    def _logits_of_noise(self, model: HierarchicalEnsemble) -> Tensor:
        """Logits (L, B, K) for the same images in any precision."""
        weight = next(model.parameters())
        noise = torch.randn((CHECKED_IMAGES, *self._input_shape), generator=torch.Generator().manual_seed(0))
        logits: Tensor = model(noise.to(weight.device, weight.dtype))
        return logits.float().cpu()

    def _check_precision(self, expected: Tensor, precision: str) -> None:
        error = (self._logits_of_noise(self._model) - expected).abs().max() / expected.abs().max()
        if not error < PRECISE:
            raise SettingsError(
                f"precision {precision}: logits are {error:.0%} off those in float32 with this model; take a higher one"
            )

    def _plan(self, segment: Segment, batch: int) -> _Plan:
        return _Plan(self._modules[segment], self._levels, batch, self._input_shape)

    def _activation_shapes(self) -> dict[int, tuple[int, ...]]:
        """One request's activation shape, for every block that some segment keeps."""
        image = torch.zeros((1, *self._input_shape), dtype=self._dtype, device=self._device)
        found: dict[int, Tensor] = {IMAGE: image}
        for leaf in range(self._model.tree.leaves):
            module = self._modules[Segment(leaf)]
            _, kept = module(found[self._model.tree.entry_block(leaf) - 1])
            found |= dict(zip(module.kept, kept, strict=True))
        return {level: tuple(value.shape[1:]) for level, value in found.items() if level != IMAGE}


class _Plan:
    """One segment at one batch size: its inputs at fixed addresses, and what computes it."""

    def __init__(
        self, module: SegmentModule, levels: Mapping[int, Tensor], batch: int, input_shape: tuple[int, ...]
    ) -> None:
        self._module, self._levels = module, levels
        self._reads = IMAGE if module.entry is None else module.entry.block
        parameter = next(module.parameters())
        self._nobody = next(iter(levels.values())).shape[0] - 1 if levels else 0
        device, pinned = parameter.device, parameter.is_cuda
        self._host_rows = torch.full((batch,), self._nobody, dtype=torch.int64, pin_memory=pinned)
        self._rows = self._host_rows.to(device)
        self._images: Tensor | None = None
        if module.segment.start == 0:
            self._host_images = torch.zeros((batch, *input_shape), pin_memory=pinned)
            self._images = self._host_images.to(device)
        self._dtype = parameter.dtype
        self._graph: torch.cuda.CUDAGraph | None = None
        self._logits = torch.empty(0)

    def fill(self, rows: Rows, images: Array | None) -> None:
        """Set the inputs; the rest of the batch belongs to nobody."""
        chosen = np.arange(rows.start, rows.stop) if isinstance(rows, slice) else np.asarray(rows)
        self._host_rows[: len(chosen)] = torch.from_numpy(chosen)
        self._host_rows[len(chosen) :] = self._nobody
        self._rows.copy_(self._host_rows, non_blocking=True)
        if self._images is not None:
            assert images is not None
            # By NumPy, on this thread alone: PyTorch would share a large copy out among all cores, and wait for the
            # busiest of them.
            np.copyto(self._host_images.numpy()[: len(chosen)], images)
            self._images.copy_(self._host_images, non_blocking=True)

    def capture(self, pool: Any, stream: torch.cuda.Stream) -> None:
        """Record the computation on a stream as a CUDA graph, its memory in a pool that all graphs share."""
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UP):
                self._compute()
        torch.cuda.current_stream().wait_stream(stream)
        self._graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self._graph, pool=pool, stream=stream):
            self._logits = self._compute()
        self._graph.replay()  # the first time it is uploaded, for which no request is to wait

    def __call__(self) -> Tensor:
        """The leaves' logits (w, B, K); valid until any plan runs again."""
        if self._graph is None:
            return self._compute()
        self._graph.replay()
        return self._logits

    def _compute(self) -> Tensor:
        if self._images is None:
            x = _as_used(self._levels[self._reads].index_select(0, self._rows))
        else:
            x = self._images.to(self._dtype).to(memory_format=torch.channels_last)
            if IMAGE in self._levels:
                self._levels[IMAGE].index_copy_(0, self._rows, _as_stored(x))
        logits, kept = self._module(x)
        for block, activation in zip(self._module.kept, kept, strict=True):
            self._levels[block].index_copy_(0, self._rows, _as_stored(activation))
        result: Tensor = logits.float()
        return result


def _buckets(max_batch: int) -> list[int]:
    """The batch sizes that graphs are captured for: the powers of two that hold every batch."""
    return [1 << power for power in range((max_batch - 1).bit_length() + 1)]


# Images and feature maps lie in the slots with their channels last, as the convolutions take them.


def _stored(shape: tuple[int, ...]) -> tuple[int, ...]:
    return (*shape[1:], shape[0]) if len(shape) == 3 else shape


def _as_stored(x: Tensor) -> Tensor:
    return x.movedim(1, -1) if x.ndim == 4 else x


def _as_used(x: Tensor) -> Tensor:
    return x.movedim(-1, 1) if x.ndim == 4 else x
