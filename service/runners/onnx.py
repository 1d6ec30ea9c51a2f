"""The runner that needs no torch: one ONNX Runtime session per step of a model package."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnxruntime as ort

from model_core.package import Package
from model_core.tree import Segment
from service.errors import RunnerError
from service.runners.base import Array
from service.runners.devices import FATAL_ONLY, Device, first_line, open_session, prepare

__all__ = ["OnnxRunner", "session_options"]


class OnnxRunner:
    """Computes the steps of a package.

    `threads` is the number of CPU threads for one operator. On a GPU the arrays cross to the device and back with every
    step: their activations are not kept there between steps.

    Raises:
        RunnerError: a graph cannot be loaded, or its inputs and outputs are not those of its step.
        SettingsError: the device cannot be used; says what is missing.
    """

    def __init__(self, package: Package, *, threads: int = 1, device: Device = Device.CPU) -> None:
        self.name = f"onnx-{device}"
        tree = package.manifest.spec.tree
        self.segments = tuple(Segment(leaf) for leaf in range(tree.leaves))
        self.shapes: Mapping[int, tuple[int, ...]]
        self.max_batch = None
        prepare(device)
        options = session_options(threads)
        self._files = [package.step(leaf) for leaf in range(tree.leaves)]
        self._sessions = [open_session(file, options, device) for file in self._files]
        shapes: dict[int, tuple[int, ...]] = {}
        for segment, session, file in zip(self.segments, self._sessions, self._files, strict=True):
            names = ["logits", *(f"block_{block}" for block in tree.kept_blocks(segment))]
            found = [output.name for output in session.get_outputs()]
            if [value.name for value in session.get_inputs()] != ["x"] or found != names:
                raise RunnerError(file, f"must take x and give {', '.join(names)}, but gives {', '.join(found)}")
            entry = tree.entry_block(segment.start) - 1
            given = tuple(session.get_inputs()[0].shape[1:])
            wanted = shapes[entry] if entry >= 0 else package.manifest.spec.input_shape
            if given != wanted:
                raise RunnerError(file, f"takes x of shape {given}, but its step starts from {wanted}")
            logits, *kept = (tuple(output.shape[1:]) for output in session.get_outputs())
            if logits != (package.manifest.spec.classes,):
                raise RunnerError(file, f"gives logits of shape {logits} for {package.manifest.spec.classes} classes")
            for block, shape in zip(tree.kept_blocks(segment), kept, strict=True):
                if shapes.setdefault(block, shape) != shape:
                    raise RunnerError(file, f"gives block_{block} of shape {shape}, earlier steps {shapes[block]}")
        self.shapes = shapes
        self._kept = [tree.kept_blocks(segment) for segment in self.segments]

    def run(self, segment: Segment, x: Array) -> tuple[Array, dict[int, Array]]:
        """See `Runner.run`."""
        leaf = segment.start
        try:
            logits, *kept = self._sessions[leaf].run(None, {"x": x})
        except Exception as error:  # ONNX Runtime's exceptions have no base of their own
            raise RunnerError(self._files[leaf], first_line(error)) from error
        return np.asarray(logits)[np.newaxis], dict(zip(self._kept[leaf], kept, strict=True))

    def close(self) -> None:
        """Free the sessions."""
        self._sessions.clear()


def session_options(threads: int) -> ort.SessionOptions:
    """How a session on the CPU computes: benchmarks give it to other servers too."""
    # Measured on two shared cores with the 16 steps of hne_small, milliseconds per image and full ensemble at batch
    # 8 and 32: pools that spin 83 and 45 (16 pools starve each other), one pool for all sessions 11.6 and 11.2 (that
    # one always spins), pools that sleep 2.7 and 2.5, a single thread 5.1 and 5.2. At batch 1 the two best are alike.
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # Only one session runs at a time: with one arena for all of them, 54 MB instead of 113 MB after a batch of 32.
    arena = ort.OrtMemoryInfo("Cpu", ort.OrtAllocatorType.ORT_ARENA_ALLOCATOR, 0, ort.OrtMemType.DEFAULT)
    ort.create_and_register_allocator(arena, None)
    options.add_session_config_entry("session.use_env_allocators", "1")
    options.log_severity_level = FATAL_ONLY  # every fault is raised as well
    return options
