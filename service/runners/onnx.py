"""The runner that needs no torch: one ONNX Runtime session per segment of a model package."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnxruntime as ort

from model_core.package import Package
from model_core.tree import Segment
from service.errors import RunnerError
from service.runners.activations import IMAGE, Activations, kept_shapes
from service.runners.base import Array, Rows, batch_of
from service.runners.devices import Device, first_line, open_session, prepare, session_options
from service.runners.joined import segment_graph

__all__ = ["OnnxRunner"]


KEPT_BINDINGS = 64
"""Of each segment, for the rows that it computed last: to bind arrays costs as much as a tenth of a small step."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Binding:
    """Arrays of ours that a session reads and writes."""

    bound: ort.IOBinding
    logits: Array
    """(w, B, K)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Step:
    """One segment's session, and the levels it reads and keeps."""

    file: Path
    """The step that it is, or begins with."""
    width: int
    joined: bool
    """Whether it is made for the segment: then its logits are (w, B, K), else those of a single leaf, (B, K)."""
    session: ort.InferenceSession
    reads: int
    keeps: tuple[int, ...]
    bindings: dict[tuple[int, int], _Binding] = field(default_factory=dict)
    """By the first and the last of neighbouring rows, whose arrays stay where they are."""


_Steps = dict[tuple[Segment, int | None], _Step]
"""By segment, and for a first step by the ensemble size until which it keeps what is needed, too; None: all of it."""


class OnnxRunner:
    """Computes the steps of a package and, if `wide`, every segment of several of them that the tree allows: joined
    into one graph they save the calls and copies between them, for a few copies of the weights for each width. They
    have the threads of small batches, since those are what they are for. A first step has graphs of its own then, too,
    for requests that stop early: one that keeps nothing takes a tenth less, one that keeps enough for four networks of
    sixteen a fifteenth.

    `threads` is the number of CPU threads for one operator, in batches of `threads_from` and more; smaller batches are
    left to one (`service.runners.threads` measures what is faster). On the CPU a step reads and writes the slots in
    place where they are neighbours. On a GPU the arrays cross to the device and back with every step: `PyTorchRunner`
    keeps them there.

    Raises:
        RunnerError: a graph cannot be loaded, or its inputs and outputs are not those of its step.
        SettingsError: the device cannot be used; says what is missing.
    """

    def __init__(
        self,
        package: Package,
        *,
        threads: int = 1,
        threads_from: int = 1,
        wide: bool = False,
        device: Device = Device.CPU,
    ) -> None:
        self.name = f"onnx-{device}"
        self.configuration = f"ONNX Runtime {ort.__version__}, {device}, {threads} threads from batch {threads_from}"
        self.configuration += ", wide" if wide else ""
        self.max_batch = None
        self.pads = False
        self.keeping_costs = wide
        self._tree = tree = package.manifest.spec.tree
        self._input_shape = package.manifest.spec.input_shape
        self._classes = package.manifest.spec.classes
        self.segments = tuple(segment for segment in tree.segments() if wide or segment.width == 1)
        self._in_place = device is Device.CPU
        prepare(device)
        self._threads_from = threads_from
        self._shapes: dict[int, tuple[int, ...]] = {}
        """One request's activation shape, for every block that some step keeps."""

        def load(segments: Iterable[Segment], count: int) -> _Steps:
            options = session_options(count)
            return {(segment, None): self._load(segment, package, options, device) for segment in segments}

        def load_steps(count: int) -> _Steps:
            steps = load((Segment(leaf) for leaf in range(tree.leaves)), count)
            if not wide:
                return steps
            options, made = session_options(count), {tree.kept_blocks(Segment(0)): steps[Segment(0), None]}
            for size in tree.ensemble_sizes:
                keeps = tree.kept_blocks(Segment(0), size)
                if keeps not in made:
                    made[keeps] = self._load(Segment(0), package, options, device, keeps)
                steps[Segment(0), size] = made[keeps]
            return steps

        self._steps = load_steps(threads)
        self._small = self._steps
        """What computes batches below `threads_from`."""
        if threads_from > 1:
            self._small = load_steps(1)
        joined = load((segment for segment in self.segments if segment.width > 1), 1 if threads_from > 1 else threads)
        for group in (self._steps, self._small):
            group.update(joined)
        self._slots = Activations(0, {})

    def reserve(self, slots: int) -> int:
        """See `Runner.reserve`."""
        self._slots = Activations(slots, kept_shapes(self._tree, self._shapes, self._input_shape))
        for step in (*self._steps.values(), *self._small.values()):
            step.bindings.clear()
        return self._slots.memory_bytes

    def run(self, segment: Segment, rows: Rows, images: Array | None = None, *, until: int | None = None) -> Array:
        """See `Runner.run`."""
        steps = self._steps if batch_of(rows) >= self._threads_from else self._small
        step, slots = steps.get((segment, until)) or steps[segment, None], self._slots
        if images is not None and IMAGE in slots and (until is None or until > self._tree.span(0)):
            slots.store(IMAGE, rows, images)
        try:
            if self._in_place and (images is None or step.keeps):  # else nothing of it touches a slot
                return self._run_in_place(step, rows, images)
            x = slots.gather(step.reads, rows) if images is None else images
            logits, *kept = step.session.run(None, {"x": x})
        except Exception as error:  # ONNX Runtime's exceptions have no base of their own
            raise RunnerError(step.file, first_line(error)) from error
        for level, activation in zip(step.keeps, kept, strict=True):
            slots.store(level, rows, np.asarray(activation))
        return np.asarray(logits).reshape(step.width, -1, self._classes)

    def close(self) -> None:
        """Free the sessions."""
        self._steps.clear()
        self._small.clear()

    def _run_in_place(self, step: _Step, rows: Rows, images: Array | None) -> Array:
        """Compute from arrays into arrays of ours. Of neighbouring rows these are the slots; others are copied."""
        # Held until the session has run: a binding knows no more than an address.
        x = None if images is None else np.ascontiguousarray(images, np.float32)
        if isinstance(rows, slice):
            binding = self._neighbours(step, rows)
            if x is not None:
                _bind_input(binding.bound, x)
            step.session.run_with_iobinding(binding.bound)
        else:
            x = self._slots.gather(step.reads, rows) if x is None else x
            kept = {level: np.empty((len(rows), *self._shapes[level]), np.float32) for level in step.keeps}
            binding = self._binding(step, len(rows), kept)
            _bind_input(binding.bound, x)
            step.session.run_with_iobinding(binding.bound)
            for level, array in kept.items():
                self._slots.store(level, rows, array)
        return binding.logits.copy()  # the binding's own is written again

    def _neighbours(self, step: _Step, rows: slice) -> _Binding:
        """The binding of neighbouring slots, but for the images that a first step reads."""
        key = rows.start, rows.stop
        if (binding := step.bindings.get(key)) is None:
            if len(step.bindings) == KEPT_BINDINGS:
                step.bindings.clear()
            kept = {level: self._slots.gather(level, rows) for level in step.keeps}
            binding = step.bindings[key] = self._binding(step, batch_of(rows), kept)
            if step.reads in self._slots:
                _bind_input(binding.bound, self._slots.gather(step.reads, rows))
        return binding

    def _binding(self, step: _Step, batch: int, kept: Mapping[int, Array]) -> _Binding:
        """A segment's outputs bound to arrays."""
        bound, logits = step.session.io_binding(), np.empty((step.width, batch, self._classes), np.float32)
        outputs = {
            "logits": logits if step.joined else logits[0],
            **{f"block_{level}": array for level, array in kept.items()},
        }
        for name, array in outputs.items():
            bound.bind_output(name, "cpu", 0, np.float32, array.shape, array.ctypes.data)
        return _Binding(bound=bound, logits=logits)

    def _load(
        self,
        segment: Segment,
        package: Package,
        options: ort.SessionOptions,
        device: Device,
        keeps: tuple[int, ...] | None = None,
    ) -> _Step:
        """A session for a segment; one that is no step as it is, is made of those, which have been checked before."""
        file, joined = package.step(segment.start), keeps is not None or segment.width > 1
        keeps = self._tree.kept_blocks(segment) if keeps is None else keeps
        graph = segment_graph(package, segment, keeps) if joined else None
        step = _Step(
            file=file,
            width=segment.width,
            joined=joined,
            session=open_session(file, options, device, graph=graph),
            reads=self._tree.entry_block(segment.start) - 1,
            keeps=keeps,
        )
        if not joined:
            self._check(step)
        return step

    def _check(self, step: _Step) -> None:
        file, session = step.file, step.session
        names = ["logits", *(f"block_{block}" for block in step.keeps)]
        found = [output.name for output in session.get_outputs()]
        if [value.name for value in session.get_inputs()] != ["x"] or found != names:
            raise RunnerError(file, f"must take x and give {', '.join(names)}, but gives {', '.join(found)}")
        given = tuple(session.get_inputs()[0].shape[1:])
        wanted = self._shapes[step.reads] if step.reads >= 0 else self._input_shape
        if given != wanted:
            raise RunnerError(file, f"takes x of shape {given}, but its step starts from {wanted}")
        logits, *kept = (tuple(output.shape[1:]) for output in session.get_outputs())
        if logits != (self._classes,):
            raise RunnerError(file, f"gives logits of shape {logits} for {self._classes} classes")
        for block, shape in zip(step.keeps, kept, strict=True):
            if self._shapes.setdefault(block, shape) != shape:
                raise RunnerError(file, f"gives block_{block} of shape {shape}, earlier steps {self._shapes[block]}")


def _bind_input(bound: ort.IOBinding, x: Array) -> None:
    """Let a session read an array, which has to live until it has."""
    bound.bind_input("x", "cpu", 0, np.float32, x.shape, x.ctypes.data)
