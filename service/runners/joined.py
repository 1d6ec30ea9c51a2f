"""Steps joined into one ONNX graph.

A step starts from the activation that an earlier one keeps, so `onnx.compose` can wire them together; no node is
computed twice. Between two steps of such a graph there is no call into the runtime, no copy and no decision.
"""

from __future__ import annotations

from collections.abc import Sequence

import onnx
import onnx.compose
import onnx.parser

from model_core.package import Package
from model_core.tree import Node, Segment
from service.errors import RunnerError
from service.runners.devices import first_line

__all__ = ["extended", "joined", "segment_graph"]


def segment_graph(package: Package, segment: Segment, keeps: Sequence[int]) -> bytes:
    """A segment as a graph: from `x`, what its first step starts from, to `logits` (w, B, K) of its leaves, and
    `block_k` for each block that it `keeps`, of those that it computes.

    Raises:
        RunnerError: its steps cannot be read, or do not fit together.
    """
    classes = package.manifest.spec.classes
    try:
        graph, leaves, made = joined(package, segment)
        last = {node.block: name for node, name in made.items() if node is not None}
        scores, shapes = f"batch,{classes}", {block: _shape(graph, last[block]) for block in keeps}
        rows = "\n".join(f"row_{name} = Unsqueeze(in_{name}, axes)" for name in leaves)
        kept = "\n".join(f"block_{block} = Identity(in_{last[block]})" for block in keeps)
        taken = [f"float[{scores}] in_{name}" for name in leaves]
        taken += [f"float[{shapes[block]}] in_{last[block]}" for block in keeps]
        given = [f"float[{segment.width},{scores}] logits"]
        given += [f"float[{shapes[block]}] block_{block}" for block in keeps]
        whole = extended(
            graph,
            [*leaves, *(last[block] for block in keeps)],
            f"""({", ".join(taken)}) => ({", ".join(given)}) {{
                axes = Constant <value_ints = [0]> ()
                {rows}
                logits = Concat <axis = 0> ({", ".join(f"row_{name}" for name in leaves)})
                {kept}
            }}""",
        )
    except Exception as error:  # those of ONNX and of protobuf have no base of their own
        first, last_leaf = package.step(segment.start), segment.stop - 1
        raise RunnerError(
            first, f"cannot be joined with those up to {last_leaf:02d}.onnx: {first_line(error)}"
        ) from error
    serialized: bytes = whole.SerializeToString()
    return serialized


def joined(package: Package, segment: Segment) -> tuple[onnx.ModelProto, list[str], dict[Node | None, str]]:
    """A graph from `x` to everything that the steps of a segment give; the names of the leaves' logits (B, K) in it,
    and those of the activations that steps start from, by the node that computes them.
    """
    tree = package.manifest.spec.tree
    steps = [onnx.load(package.step(leaf)) for leaf in range(segment.start, segment.stop)]
    start = f"float[{_dimensions(steps[0].graph.input[0])}]"
    graph = _parsed(steps[0], f"segment ({start} x) => ({start} start) {{ start = Identity(x) }}")
    made = {tree.entry_node(segment.start): "start"}
    leaves: list[str] = []
    for leaf, step in enumerate(steps, segment.start):
        prefix = f"step_{leaf:02d}_"
        kept = tree.kept_blocks(Segment(leaf))
        before = made[tree.entry_node(leaf)]
        made |= {node: f"{prefix}block_{node.block}" for node in tree.fresh_nodes(Segment(leaf)) if node.block in kept}
        leaves.append(f"{prefix}logits")
        graph = onnx.compose.merge_models(
            graph,
            onnx.compose.add_prefix(step, prefix),
            io_map=[(before, f"{prefix}x")],
            outputs=[*made.values(), *leaves],
        )
    return graph, leaves, made


def extended(graph: onnx.ModelProto, names: list[str], end: str) -> onnx.ModelProto:
    """A graph with another behind it, in ONNX's text form, which takes some of its outputs, NAME as `in_NAME`; only the
    end's own outputs are left.
    """
    behind = _parsed(graph, f"end {end}")
    outputs = [output.name for output in behind.graph.output]
    return onnx.compose.merge_models(graph, behind, io_map=[(name, f"in_{name}") for name in names], outputs=outputs)


def _parsed(like: onnx.ModelProto, graph: str) -> onnx.ModelProto:
    """A graph in ONNX's text form, of the same versions as another."""
    opsets = ", ".join(f'"{opset.domain}" : {opset.version}' for opset in like.opset_import)
    return onnx.parser.parse_model(f"<ir_version: {like.ir_version}, opset_import: [{opsets}]>\n{graph}")


def _shape(graph: onnx.ModelProto, name: str) -> str:
    return _dimensions(next(output for output in graph.graph.output if output.name == name))


def _dimensions(value: onnx.ValueInfoProto) -> str:
    """As in ONNX's text form: batch,32,16,16."""
    dimensions = value.type.tensor_type.shape.dim
    return ",".join(["batch", *(str(dimension.dim_value) for dimension in dimensions[1:])])
