"""From a trained model to the package that serving loads: weights, one ONNX graph per step, manifest, model card.

Nothing appears under the target's name before every step has given torch's results on real images: the
package is built in a folder beside it and renamed. One that it replaces is deleted only then.

Shape legend: B batch, K classes.
"""

from __future__ import annotations

import os
import shutil
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import torch
from pydantic import JsonValue
from torch import Tensor, nn

from model_core.checkpoint import save_checkpoint
from model_core.depth_first import SegmentModule, refine, segment_module
from model_core.folding import folded
from model_core.grouped import HierarchicalEnsemble
from model_core.package import (
    CARD,
    MANIFEST,
    WEIGHTS,
    EnsembleFigures,
    Manifest,
    Package,
    Preprocessing,
    digest,
    step_file,
    write_manifest,
)
from model_core.tree import Node, Segment, Tree
from training.errors import ExportError
from training.progress import bar

__all__ = ["export_package", "export_step", "run_steps"]

OPSET = 20
SHOWN_CLASSES = 20
TOLERANCE = 1e-4
"""Largest difference allowed between torch and ONNX Runtime, relative to the largest logit (at least 1)."""


class _StepGraph(nn.Module):
    """A step with flat outputs: logits (B, K), then the kept activations."""

    PREFIX = "step."

    def __init__(self, step: SegmentModule) -> None:
        super().__init__()
        self.step = step

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        logits, kept = self.step.flat(x)
        return (logits, *kept)


def export_package(
    model: HierarchicalEnsemble,
    out_dir: Path,
    *,
    name: str,
    version: str,
    class_names: Sequence[str],
    preprocessing: Preprocessing,
    table: Sequence[EnsembleFigures],
    evaluated_on: str,
    training: Mapping[str, JsonValue],
    images: Tensor,
    overwrite: bool = False,
) -> Package:
    """Write a package and check it.

    Args:
        images: some real, normalised images (B, C, H, W), B at least 2, on which every step is compared with torch.
        training: how the model was trained; goes into the manifest as it is.
        overwrite: replace a package that is already there.

    Raises:
        ExportError: the target exists and may not be replaced, which nothing but a package ever may; or a step's graph
            does not give torch's results.
    """
    if out_dir.exists() and not overwrite:
        raise ExportError(f"{out_dir} already exists; choose another folder or allow overwriting")
    if out_dir.exists() and not (out_dir / MANIFEST).is_file():
        raise ExportError(f"{out_dir} is no model package, so it is not replaced; choose another folder")
    part = out_dir.with_name(f".{out_dir.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    (part / "steps").mkdir(parents=True)

    plain = model.cpu().eval()
    inference = folded(plain)
    save_checkpoint(part / WEIGHTS, plain)
    steps = [segment_module(inference, Segment(leaf)) for leaf in range(model.tree.leaves)]
    graphs: dict[tuple[int, tuple[int, ...]], onnx.ModelProto] = {}
    with bar("exporting steps", total=len(steps), keep=False, unit="step") as progress:
        for leaf, step in enumerate(steps):
            # Steps that enter the tree at the same block are the same graph with other weights; exporting is slow.
            shape = (model.tree.entry_block(leaf), step.kept)
            if shape not in graphs or not _fill(graphs[shape], step):
                graphs[shape] = export_step(step, _example_input(inference, step, images[:2]))
            (part / step_file(leaf)).write_bytes(graphs[shape].SerializeToString())
            progress.update()
    difference = _verify(plain, part, images)

    manifest = Manifest(
        name=name,
        version=version,
        spec=model.spec,
        class_names=tuple(class_names),
        preprocessing=preprocessing,
        table=tuple(table),
        evaluated_on=evaluated_on,
        training=dict(training),
        files={},
    )
    (part / CARD).write_text(_card(manifest, difference, len(images)), encoding="utf-8")
    files = sorted(path for path in part.rglob("*") if path.is_file())
    digests = {path.relative_to(part).as_posix(): digest(path) for path in files}
    write_manifest(part, manifest.model_copy(update={"files": digests}))
    Package.load(part)

    old = out_dir.with_name(f".{out_dir.name}.old")
    if out_dir.exists():
        shutil.rmtree(old, ignore_errors=True)
        os.replace(out_dir, old)
    os.replace(part, out_dir)
    shutil.rmtree(old, ignore_errors=True)
    return Package.load(out_dir)


def export_step(step: SegmentModule, example: Tensor) -> onnx.ModelProto:
    """One step's graph: input `x`, outputs `logits` and `block_b` for every kept block b, any batch size."""
    names = ["logits", *(f"block_{block}" for block in step.kept)]
    with warnings.catch_warnings():
        # The exporter uses deprecated parts of torch's own pytree and copyreg; nothing of ours is concerned.
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            _StepGraph(step).eval(),
            (example,),
            dynamo=True,
            opset_version=OPSET,
            input_names=["x"],
            output_names=names,
            dynamic_shapes=({0: torch.export.Dim("batch")},),
            verbose=False,
        )
    assert program is not None
    proto = program.model_proto
    _strip(proto)
    onnx.checker.check_model(proto, full_check=True)
    return proto


def _fill(proto: onnx.ModelProto, step: SegmentModule) -> bool:
    """Put another step's weights into a graph; False where the exporter has merged weights, so that it cannot be."""
    weights = {f"{_StepGraph.PREFIX}{name}": tensor for name, tensor in step.state_dict().items()}
    slots = {slot.name: slot for slot in proto.graph.initializer if slot.name in weights}
    if slots.keys() != weights.keys():
        return False
    for name, slot in slots.items():
        slot.CopyFrom(onnx.numpy_helper.from_array(weights[name].numpy(), name))
    return True


def run_steps(root: Path, tree: Tree, images: np.ndarray) -> list[np.ndarray]:
    """Evaluate a package's steps one after the other with ONNX Runtime: y_1..y_N, each (B, K)."""
    path: dict[Node, np.ndarray] = {}
    total, outputs = None, []
    for leaf in range(tree.leaves):
        session = onnxruntime.InferenceSession(root / step_file(leaf), providers=["CPUExecutionProvider"])
        entry = tree.entry_node(leaf)
        logits, *kept = session.run(None, {"x": images if entry is None else path[entry]})
        for block, activation in zip(tree.kept_blocks(Segment(leaf)), kept, strict=True):
            path[tree.leaf_path(leaf)[block]] = activation
        total = logits if total is None else total + logits
        outputs.append(total / (leaf + 1))
    return outputs


def _example_input(model: HierarchicalEnsemble, step: SegmentModule, images: Tensor) -> Tensor:
    """An input of the right shape for a step: the image, or its entry node's activation."""
    if step.entry is None:
        return images
    with torch.inference_mode():
        x = images
        for block in range(step.entry.block + 1):
            x = model.block(block).select(range(1), parents=1)(x)
    return x.clone()


def _strip(proto: onnx.ModelProto) -> None:
    """Drop what only a debugger reads: stack traces with the exporting machine's paths, names of source scopes."""
    del proto.metadata_props[:]
    graph = proto.graph
    del graph.metadata_props[:]
    del graph.value_info[:]
    for item in (*graph.node, *graph.initializer, *graph.input, *graph.output):
        item.doc_string = ""
        del item.metadata_props[:]


def _verify(model: HierarchicalEnsemble, root: Path, images: Tensor) -> float:
    """The largest relative difference between torch and the steps, over all ensemble sizes and two batch sizes."""
    worst = 0.0
    for batch in (images, images[:1]):
        expected = [y.numpy() for y in refine(model, batch)]
        for size, (ours, theirs) in enumerate(
            zip(run_steps(root, model.tree, batch.numpy()), expected, strict=True), 1
        ):
            difference = float(np.abs(ours - theirs).max() / max(1.0, np.abs(theirs).max()))
            if not difference <= TOLERANCE:  # also catches NaN
                raise ExportError(
                    f"ensemble size {size}: the exported step differs from torch by {difference:.2e} (relative to the "
                    f"largest logit), more than {TOLERANCE:.0e}; nothing was written"
                )
            worst = max(worst, difference)
    return worst


def _card(manifest: Manifest, difference: float, images: int) -> str:
    rows = "\n".join(
        f"| {row.ensemble_size} | {row.flops / 1e6:.1f} | {100 * row.accuracy:.2f} | {row.nll:.4f} | {row.ece:.4f} "
        f"| {row.temperature:.3f} |"
        for row in manifest.table
    )
    training = "\n".join(f"- {key}: {value}" for key, value in manifest.training.items())
    height, width = manifest.spec.input_shape[1:]
    classes = ", ".join(manifest.class_names[:SHOWN_CLASSES])
    if (more := len(manifest.class_names) - SHOWN_CLASSES) > 0:
        classes += f" and {more} more"
    return f"""# {manifest.name} (version {manifest.version})

A hierarchical neural ensemble of {manifest.spec.tree.leaves} networks (`{manifest.spec.name}`, branching
{"x".join(map(str, manifest.spec.branching))}) that classifies images. Serve it with `hne-serve --model <this folder>`.

- It knows {manifest.spec.classes} classes and takes every image for one of them: {classes}.
- It sees {height} x {width} pixels: what of an image covers these once it is resized in proportion, the middle of it.
- Its figures hold for images like those that it was measured on, below.

## Cost and accuracy per ensemble size
Measured on {manifest.evaluated_on}. FLOPs are multiply-adds for one image; NLL and ECE after dividing the logits by
the temperature, which was fitted on images held out from training.

| networks | FLOPs (millions) | accuracy (%) | NLL | ECE | temperature |
|---:|---:|---:|---:|---:|---:|
{rows}

## How it was trained
{training}

## Files
`model.safetensors` holds the weights, `steps/NN.onnx` one graph per step, `manifest.json` everything else with a
SHA-256 of each file. At export the steps agreed with the training framework to {difference:.1e} of the largest logit
on {images} images.
"""
