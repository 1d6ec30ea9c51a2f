"""The MobileNetV2 family of Table 3: inverted residuals with expansion 6.

Shape legend: see `layers`. Each block of the spec's rows becomes one `TableBlock`.
"""

from __future__ import annotations

from torch import Tensor, nn

from model_core.errors import SpecError
from model_core.layers import ConvNorm, GroupedLinear, TableBlock, table_blocks
from model_core.spec import ModelSpec, Row

__all__ = ["InvertedResidual", "MobileNetBlock", "mobilenet_blocks"]

EXPANSION = 6


class InvertedResidual(nn.Module):
    """MBNet and MBNet+Branching of Figure 8: 1x1 up, depthwise 3x3, 1x1 down without activation.

    The input is added where its shape allows, which it never does in a branching layer.
    """

    def __init__(self, channels_in: int, channels_out: int, *, stride: int, parents: int, nodes: int) -> None:
        super().__init__()
        wide = nodes * channels_in * EXPANSION
        self.body = nn.Sequential(
            ConvNorm(parents * channels_in, wide, groups=parents, activation=nn.ReLU6(inplace=True)),
            ConvNorm(wide, wide, 3, stride=stride, groups=wide, activation=nn.ReLU6(inplace=True)),
            ConvNorm(wide, nodes * channels_out, groups=nodes),
        )
        self.residual = stride == 1 and channels_in == channels_out and parents == nodes

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.body(x)
        return x + y if self.residual else y


class MobileNetBlock(TableBlock):
    """One block of Table 3 for `nodes` branches; the last block ends in the classifier."""

    def layer(self, row: Row, channels_in: int, *, stride: int, groups: int) -> nn.Module:
        match row.layer:
            case "conv3x3" | "conv1x1":
                return self.convolution(
                    row, channels_in, stride=stride, groups=groups, activation=nn.ReLU6(inplace=True)
                )
            case "dwconv3x3":
                wide = self.nodes * channels_in
                return ConvNorm(wide, wide, 3, stride=stride, groups=wide, activation=nn.ReLU6(inplace=True))
            case "mbnet" | "mbnet+branching":
                return InvertedResidual(channels_in, row.channels, stride=stride, parents=groups, nodes=self.nodes)
            case "linear":
                return nn.Sequential(
                    nn.AdaptiveAvgPool2d(1),
                    nn.Flatten(),
                    GroupedLinear(channels_in, row.channels, groups=self.nodes),
                    nn.ReLU6(inplace=True),
                )
            case "classifier":
                return GroupedLinear(channels_in, self.classes, groups=self.nodes)
        raise SpecError(f"the mobilenetv2 family has no layer {row.layer!r}")


def mobilenet_blocks(spec: ModelSpec) -> list[MobileNetBlock]:
    """The levels of a MobileNetV2 ensemble, root first.

    Raises:
        SpecError: a row names a layer that the family does not have.
    """
    return table_blocks(spec, MobileNetBlock)
