"""What every node, step and ensemble size costs, counted from the operations themselves.

FLOPs are multiply-adds of convolutions, linear layers and other matrix products for one image, batch norm
folded: the convention of the paper and of MSDNet. Counted by torch's own counter on shapes alone.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from model_core.errors import SpecError
from model_core.grouped import HierarchicalEnsemble
from model_core.spec import ModelSpec
from model_core.tree import Segment

__all__ = ["Costs", "count_costs"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """Costs of one model. Nodes of one block cost the same."""

    spec: ModelSpec
    node_flops: tuple[int, ...]
    """Multiply-adds of one node, per block."""
    node_parameters: tuple[int, ...]
    """Trained parameters of one node, per block."""

    @property
    def step_flops(self) -> tuple[int, ...]:
        """Multiply-adds of each step 0..N-1."""
        return tuple(self.segment_flops(Segment(leaf)) for leaf in range(self.spec.tree.leaves))

    @property
    def cumulative_flops(self) -> tuple[int, ...]:
        """Multiply-adds spent at ensemble sizes 0..N."""
        return tuple(accumulate(self.step_flops, initial=0))

    @property
    def parameters(self) -> int:
        """Trained parameters of the whole ensemble."""
        return self.subset_parameters(self.spec.tree.leaves)

    def segment_flops(self, segment: Segment) -> int:
        """Multiply-adds of a segment's fresh nodes."""
        return sum(self.node_flops[node.block] for node in self.spec.tree.fresh_nodes(segment))

    def subset_parameters(self, ensemble_size: int) -> int:
        """Trained parameters of the first leaves."""
        steps = (self.spec.tree.fresh_nodes(Segment(leaf)) for leaf in range(ensemble_size))
        return sum(self.node_parameters[node.block] for step in steps for node in step)


def count_costs(model: HierarchicalEnsemble) -> Costs:
    """Count a model's costs; it may have no weights (be on the device "meta"), and is left as it is.

    A network that cannot be computed without numbers (it holds tensors that are neither parameters nor buffers, or
    reads some on its way) is computed once, on the device that it is on.

    Raises:
        SpecError: a node changes what it starts from in place, though it has siblings that start from it, too.
    """
    try:
        flops = _count(model, torch.device("meta"))
    except RuntimeError:
        device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
        if device.type == "meta":
            raise
        flops = _count(model, device)
    nodes = [model.block(index).select(range(1), parents=1) for index in range(model.tree.blocks)]
    parameters = tuple(sum(parameter.numel() for parameter in node.parameters()) for node in nodes)
    return Costs(spec=model.spec, node_flops=flops, node_parameters=parameters)


@torch.inference_mode(False)  # whose tensors do not tell whether they were changed
@torch.no_grad()
def _count(model: HierarchicalEnsemble, device: torch.device) -> tuple[int, ...]:
    """Multiply-adds of one node of each block, on a device."""
    flops = []
    x = torch.zeros(1, *model.spec.input_shape, device=device)
    with sdpa_kernel(SDPBackend.MATH):  # the counter knows not all of the others
        for index in range(model.tree.blocks):
            node = deepcopy(model.block(index).select(range(1), parents=1)).to(device).eval()
            start, version = x, x._version
            with FlopCounterMode(display=False) as counter:
                x = node(x)
            if start._version != version and model.tree.branching[index] > 1:
                raise SpecError(
                    f"{model.spec.name}: a module of block {index} changes its input in place, from which its siblings "
                    "start, too; leave inplace=True out at its beginning"
                )
            flops.append(counter.get_total_flops() // 2)  # it counts a multiply-add as two
    return tuple(flops)
