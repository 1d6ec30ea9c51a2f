"""What every runner does, whatever it computes with and on."""

from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch

from model_core.checkpoint import save_checkpoint
from model_core.depth_first import refine
from model_core.grouped import HierarchicalEnsemble
from model_core.package import Package
from model_core.tree import Segment, Tree
from service.errors import RunnerError, SettingsError
from service.runners import Array, Runner
from service.runners.base import batch_of
from service.runners.choice import choose_runner
from service.runners.devices import Device
from service.runners.names import Precision
from service.runners.onnx import OnnxRunner
from service.runners.pytorch import PyTorchRunner
from tests.service.engines import images

SLOTS = 6
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an NVIDIA GPU")
needs_onnx_cuda = pytest.mark.skipif(
    "CUDAExecutionProvider" not in onnxruntime.get_available_providers() or not torch.cuda.is_available(),
    reason="needs an ONNX Runtime with CUDA and an NVIDIA GPU",
)

MAKERS: dict[str, Callable[[Package], Runner]] = {
    "onnx-cpu": lambda package: OnnxRunner(package, threads=2, threads_from=3, wide=True),
    "pytorch-cpu": lambda package: PyTorchRunner(package, device="cpu"),
    "onnx-cuda": lambda package: OnnxRunner(package, wide=True, device=Device.CUDA),
    "pytorch-cuda": lambda package: PyTorchRunner(package, max_batch=8),
}


@pytest.fixture(
    scope="module",
    params=[
        "onnx-cpu",
        "pytorch-cpu",
        pytest.param("onnx-cuda", marks=[needs_onnx_cuda, pytest.mark.gpu]),
        pytest.param("pytorch-cuda", marks=[needs_gpu, pytest.mark.gpu]),
    ],
)
def runner(request: pytest.FixtureRequest, package: Package) -> Iterator[Runner]:
    runner = MAKERS[request.param](package)
    assert runner.name == request.param
    assert runner.reserve(SLOTS) > 0
    yield runner
    runner.close()


def prefix_means(model: HierarchicalEnsemble, batch: Array) -> list[Array]:
    return [mean.numpy() for mean in refine(model, torch.from_numpy(batch))]


def test_its_steps_give_the_models_outputs(runner: Runner, tiny_model: HierarchicalEnsemble) -> None:
    batch, rows, total = images(3), slice(1, 4), np.float32(0)
    for leaf, expected in enumerate(prefix_means(tiny_model, batch)):
        logits = runner.run(Segment(leaf), rows, None if leaf else batch)
        assert logits.shape == (1, 3, 10)
        total = total + logits[0]
        np.testing.assert_allclose(total / (leaf + 1), expected, atol=1e-4)


def test_requests_at_different_sizes_do_not_disturb_each_other(
    runner: Runner, tiny_model: HierarchicalEnsemble
) -> None:
    batch = images(4, seed=1)
    sums = np.zeros((4, 10), np.float32)
    slots = [5, 0, 3, 2]

    def run(leaf: int, requests: list[int]) -> None:
        rows = [slots[request] for request in requests]
        sums[requests] += runner.run(Segment(leaf), rows, None if leaf else batch[requests])[0]

    run(0, [1, 3])
    run(1, [3])
    run(0, [0])
    run(2, [3])
    run(1, [0, 1])
    run(0, [2])
    run(2, [1, 0])
    for leaf in range(3, 9):
        run(leaf, [3, 0, 1])
    run(1, [2])
    expected = prefix_means(tiny_model, batch)
    for request, size in enumerate((9, 9, 2, 9)):
        np.testing.assert_allclose(sums[request] / size, expected[size - 1][request], atol=1e-4)


def test_every_segment_it_offers_gives_the_leaves_it_covers(runner: Runner, tiny_model: HierarchicalEnsemble) -> None:
    batch = images(2, seed=2)
    means = prefix_means(tiny_model, batch)
    sums = [np.zeros_like(means[0]), *(mean * size for size, mean in enumerate(means, 1))]
    for segment in runner.segments:
        for leaf in range(segment.start):
            runner.run(Segment(leaf), [4, 1], None if leaf else batch)
        logits = runner.run(segment, [4, 1], None if segment.start else batch)
        assert logits.shape == (segment.width, 2, 10)
        np.testing.assert_allclose(logits.sum(axis=0), sums[segment.stop] - sums[segment.start], atol=2e-3)


@pytest.mark.parametrize("rows", [slice(2, 3), slice(2, 5), [5, 2], [5, 2, 4]], ids=str)
@pytest.mark.parametrize("until", [1, 2, 3, 4, 7, 8, 16])
def test_who_stops_early_gets_the_same_up_to_there_and_disturbs_nobody(
    runner: Runner, rows: slice | list[int], until: int
) -> None:
    others, batch = images(2, seed=4), images(batch_of(rows), seed=5)
    runner.run(Segment(0), slice(0, 2), others)
    expected = [runner.run(Segment(leaf), rows, None if leaf else batch) for leaf in range(until)]
    theirs = runner.run(Segment(1), slice(0, 2))
    for leaf, logits in enumerate(expected):
        again = runner.run(Segment(leaf), rows, None if leaf else batch, until=until)
        np.testing.assert_allclose(again, logits, atol=1e-5)
    np.testing.assert_array_equal(runner.run(Segment(1), slice(0, 2)), theirs)


@pytest.mark.parametrize("rows", [slice(2, 3), [5, 2], slice(1, 4)], ids=str)
@pytest.mark.parametrize("stop", [1, 2, 4, 8])
def test_where_keeping_costs_only_what_is_needed_until_then_is_kept(
    runner: Runner, rows: slice | list[int], stop: int
) -> None:
    def given(seed: int, *, until: int | None) -> tuple[Array, Array]:
        """What one of the networks before `stop` gives after a first step, and the one at it."""
        first = runner.run(Segment(0), rows, images(batch_of(rows), seed=seed), until=until)
        last = runner.run(Segment(stop // 2), rows) if stop > 1 else first
        return last, runner.run(Segment(stop), rows)

    last, beyond = given(6, until=None)
    other_last, other_beyond = given(7, until=stop)
    assert not np.array_equal(other_last, last)
    assert np.array_equal(other_beyond, beyond) == runner.keeping_costs


@pytest.mark.parametrize("rows", [slice(1, 4), [4, 0, 2]], ids=["neighbours", "scattered"])
def test_images_may_lie_in_memory_as_they_like(runner: Runner, rows: slice | list[int]) -> None:
    batch = images(3, seed=3)
    expected = runner.run(Segment(0), rows, batch)
    turned = np.asfortranarray(batch.astype(np.float64)).astype(np.float32, order="K")
    assert not turned.flags.c_contiguous
    np.testing.assert_allclose(runner.run(Segment(0), rows, turned), expected, atol=1e-5)


def test_an_image_of_the_wrong_shape_is_an_error_and_the_runner_lives_on(runner: Runner) -> None:
    with pytest.raises(RunnerError):
        runner.run(Segment(0), [0], np.zeros((1, 3, 8, 9), np.float32))
    runner.run(Segment(0), [0], images(1))


@pytest.mark.parametrize("name", ["onnx-cpu", "pytorch-cpu"])
def test_trees_that_split_above_the_first_block_read_the_image_again(name: str, independent_package: Package) -> None:
    runner = MAKERS[name](independent_package)
    runner.reserve(2)
    batch = images(2)
    both = [runner.run(Segment(leaf), slice(0, 2), None if leaf else batch) for leaf in range(2)]
    alone = [runner.run(Segment(leaf), [1], None if leaf else batch[1:]) for leaf in range(2)]
    runner.run(Segment(0), slice(0, 2), images(2, seed=1))
    until_both = [runner.run(Segment(leaf), slice(0, 2), None if leaf else batch, until=2) for leaf in range(2)]
    runner.run(Segment(0), slice(0, 2), images(2, seed=1), until=1)
    assert np.array_equal(runner.run(Segment(1), slice(0, 2)), until_both[1]) == runner.keeping_costs
    runner.close()
    np.testing.assert_allclose(until_both, both, atol=1e-5)
    for one, two in zip(alone, both, strict=True):
        np.testing.assert_allclose(one[:, 0], two[:, 1], atol=1e-4)
    assert not np.allclose(both[0], both[1], atol=1e-2)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_half_precision_is_used_and_stays_near_the_model(
    precision: Precision, package: Package, tiny_model: HierarchicalEnsemble
) -> None:
    runner = PyTorchRunner(package, device="cpu", precision=precision)
    runner.reserve(4)
    batch = images(4)
    logits = runner.run(Segment(0, 16), slice(0, 4), batch).mean(axis=0)
    expected = prefix_means(tiny_model, batch)[-1]
    assert logits.dtype == np.float32
    assert 1e-3 < np.abs(logits - expected).max() / np.abs(expected).max() < 0.1
    runner.close()


def test_weights_that_need_a_higher_precision_are_refused(
    package: Package, tiny_model: HierarchicalEnsemble, tmp_path: Path
) -> None:
    model = deepcopy(tiny_model)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.startswith("blocks.4.layers.5."):  # the classifier: float16 ends at 65,504
                parameter.mul_(1e6)
    save_checkpoint(tmp_path / package.weights.name, model)
    large = Package(root=tmp_path, manifest=package.manifest, sha256=package.sha256)
    with pytest.raises(SettingsError, match=r"precision float16: .*take a higher one"):
        PyTorchRunner(large, device="cpu", precision="float16")


def test_more_slots_than_memory_is_said(package: Package) -> None:
    runner = OnnxRunner(package)
    with pytest.raises(SettingsError, match="no memory for 1000000000000 slots"):
        runner.reserve(10**12)


def test_damaged_weights_are_named(package: Package, tmp_path: Path) -> None:
    weights = tmp_path / package.weights.name
    weights.write_bytes(package.weights.read_bytes()[:1000])
    with pytest.raises(RunnerError, match=r"model\.safetensors"):
        PyTorchRunner(Package(root=tmp_path, manifest=package.manifest, sha256=package.sha256), device="cpu")


def test_the_cpu_runner_has_segments_of_every_width(package: Package) -> None:
    tree = Tree((1, 2, 2, 2, 2))
    assert choose_runner(package, "cpu", threads=1).segments == tuple(tree.segments())
    assert OnnxRunner(package).segments == tuple(Segment(leaf) for leaf in range(tree.leaves))


@pytest.mark.parametrize("name", ["onnx-cpu", "pytorch-cpu"])
def test_a_wide_segment_leaves_what_later_ones_start_from(
    name: str, package: Package, tiny_model: HierarchicalEnsemble
) -> None:
    runner = MAKERS[name](package)
    runner.reserve(SLOTS)
    batch = images(3, seed=4)
    expected = prefix_means(tiny_model, batch)[-1]
    for rows in (slice(2, 5), [0, 5, 2]):
        route = [Segment(0, 2), Segment(2), Segment(3), Segment(4, 4), Segment(8, 8)]
        leaves = [runner.run(segment, rows, None if segment.start else batch) for segment in route]
        np.testing.assert_allclose(np.concatenate(leaves).mean(axis=0), expected, atol=1e-4)
    runner.close()
