"""The ResNet family of Table 2: bottlenecks with a depthwise 3x3 in the middle.

Shape legend: see `layers`. Each block of the spec's rows becomes one `TableBlock`.
"""

from __future__ import annotations

from torch import Tensor, nn

from model_core.errors import SpecError
from model_core.layers import ConvNorm, GroupedLinear, TableBlock, table_blocks
from model_core.spec import ModelSpec, Row

__all__ = ["Bottleneck", "ResNetBlock", "resnet_blocks"]

BOTTLENECK_RATIO = 4


class Bottleneck(nn.Module):
    """ResNet and ResNet+Branching of Figure 7: 1x1 down, depthwise 3x3, 1x1 up, plus the shortcut.

    A branching layer projects its shortcut, as ResNets do where resolution or channels change.
    """

    def __init__(
        self, channels_in: int, channels_out: int, *, stride: int, parents: int, nodes: int, project: bool
    ) -> None:
        super().__init__()
        wide_in, wide_out = parents * channels_in, nodes * channels_out
        mid = wide_out // BOTTLENECK_RATIO
        self.body = nn.Sequential(
            ConvNorm(wide_in, mid, groups=parents, activation=nn.ReLU(inplace=True)),
            ConvNorm(mid, mid, 3, stride=stride, groups=mid, activation=nn.ReLU(inplace=True)),
            ConvNorm(mid, wide_out, groups=nodes, starts_at_zero=True),
        )
        self.shortcut = ConvNorm(wide_in, wide_out, stride=stride, groups=parents) if project else nn.Identity()
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = self.relu(self.body(x) + self.shortcut(x))
        return result


class ResNetBlock(TableBlock):
    """One block of Table 2 for `nodes` branches; the last block ends in pooling and classifier."""

    def layer(self, row: Row, channels_in: int, *, stride: int, groups: int) -> nn.Module:
        match row.layer:
            case "conv3x3" | "conv1x1":
                return self.convolution(
                    row, channels_in, stride=stride, groups=groups, activation=nn.ReLU(inplace=True)
                )
            case "resnet+branching" | "resnet":
                return Bottleneck(
                    channels_in,
                    row.channels,
                    stride=stride,
                    parents=groups,
                    nodes=self.nodes,
                    project=row.layer == "resnet+branching",
                )
            case "classifier":
                return nn.Sequential(
                    nn.AdaptiveAvgPool2d(1),
                    nn.Flatten(),
                    GroupedLinear(channels_in, self.classes, groups=self.nodes),
                )
        raise SpecError(f"the resnet family has no layer {row.layer!r}")


def resnet_blocks(spec: ModelSpec) -> list[ResNetBlock]:
    """The levels of a ResNet ensemble, root first.

    Raises:
        SpecError: a row names a layer that the family does not have.
    """
    return table_blocks(spec, ResNetBlock)
