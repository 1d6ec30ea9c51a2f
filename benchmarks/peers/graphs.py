"""One ONNX graph of a package's first N networks, as a server that knows no steps would serve them.

The package's steps are joined as for the wide segments of our own runner, so the peers get the cheapest form of the
ensemble.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx

from model_core.package import Package
from model_core.tree import Segment
from service.runners import Array
from service.runners.devices import Device, open_session, session_options
from service.runners.joined import extended, joined
from service.runners.onnx import OnnxRunner

__all__ = ["composed", "prefix_logits", "write_graph"]

TOLERANCE = 1e-4
"""Largest difference allowed between the graph's logits and the steps', relative to the largest logit (at least 1)."""


def composed(package: Package, size: int) -> onnx.ModelProto:
    """Graph of ensemble size `size`: from `x` (B, C, H, W) to `logits` (B, K), the mean over the leaves, and
    `probabilities` (B, K), their softmax at the manifest's temperature.
    """
    graph, leaves, _ = joined(package, Segment(0, size))
    scores = f"float[batch,{package.manifest.spec.classes}]"
    names = [f"in_{leaf}" for leaf in leaves]
    mean = f"""({", ".join(f"{scores} {name}" for name in names)}) => ({scores} logits, {scores} probabilities) {{
        logits = Mean({", ".join(names)})
        temperature = Constant <value_float = {package.manifest.table[size - 1].temperature:.9e}> ()
        calibrated = Div(logits, temperature)
        probabilities = Softmax <axis = -1> (calibrated)
    }}"""
    return extended(graph, leaves, mean)


def prefix_logits(package: Package, size: int, images: Array) -> Array:
    """The same logits (B, K) by the package's own steps, one after the other."""
    runner = OnnxRunner(package)
    runner.reserve(len(images))
    rows = slice(0, len(images))
    leaves = [runner.run(Segment(leaf), rows, None if leaf else images)[0] for leaf in range(size)]
    runner.close()
    mean: Array = np.mean(leaves, axis=0, dtype=np.float32)
    return mean


def write_graph(package: Package, size: int, path: Path) -> None:
    """Compose a graph into a file, which is there once it is held against the package's steps.

    Raises:
        SystemExit: its logits differ.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f"{path.name}.new")
    onnx.save(composed(package, size), beside)
    shape = package.manifest.spec.input_shape
    images = np.random.default_rng(0).standard_normal((8, *shape), np.float32)
    wanted = prefix_logits(package, size, images)
    found = np.asarray(open_session(beside, session_options(1), Device.CPU).run(["logits"], {"x": images})[0])
    difference = float(np.abs(found - wanted).max() / max(np.abs(wanted).max(), 1))
    if not difference <= TOLERANCE:
        beside.unlink()
        raise SystemExit(f"the graph of {size} networks is off by {difference:.1e} from the steps of {package.root}")
    beside.replace(path)
