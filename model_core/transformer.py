"""A small vision transformer as a hierarchical ensemble: the example of `custom` that is no CNN.

Patches are embedded, every block is a stack of encoder layers, the last one averages the tokens and
classifies. Options of the spec: `patch`, `width`, `heads`, `layers` (per block).

Shape legend: B batch, T tokens, D width, K classes.
"""

from __future__ import annotations

from functools import partial

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from torch import Tensor, nn

from model_core.custom import ReplicatedBlock, replicated
from model_core.errors import SpecError
from model_core.spec import ModelSpec

__all__ = ["TransformerOptions", "transformer_blocks"]


class TransformerOptions(BaseModel):
    """What a transformer's spec remembers under `options`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    patch: int = Field(ge=1, description="side of a patch in pixels")
    width: int = Field(ge=1, description="channels of a token")
    heads: int = Field(ge=1, description="attention heads; divides the width")
    layers: tuple[int, ...] = Field(description="encoder layers of each block")


class _Patches(nn.Module):
    """(B, C, H, W) -> tokens (B, T, D) with a learned position each."""

    def __init__(self, spec: ModelSpec, options: TransformerOptions) -> None:
        super().__init__()
        channels, height, width = spec.input_shape
        self.embed = nn.Conv2d(channels, options.width, options.patch, stride=options.patch)
        tokens = (height // options.patch) * (width // options.patch)
        self.position = nn.Parameter(torch.empty(1, tokens, options.width).normal_(std=0.02))

    def forward(self, images: Tensor) -> Tensor:
        tokens: Tensor = self.embed(images)
        return tokens.flatten(2).transpose(1, 2) + self.position


class _Encoder(nn.Module):
    """One pre-norm encoder layer, (B, T, D) -> (B, T, D)."""

    def __init__(self, options: TransformerOptions) -> None:
        super().__init__()
        self.heads = options.heads
        self.norm_attention = nn.LayerNorm(options.width)
        self.qkv = nn.Linear(options.width, 3 * options.width)
        self.project = nn.Linear(options.width, options.width)
        self.mlp = nn.Sequential(
            nn.LayerNorm(options.width),
            nn.Linear(options.width, 2 * options.width),
            nn.GELU(),
            nn.Linear(2 * options.width, options.width),
        )

    def forward(self, x_btd: Tensor) -> Tensor:
        qkv = self.qkv(self.norm_attention(x_btd)).unflatten(2, (3, self.heads, -1)).permute(2, 0, 3, 1, 4)
        attended = nn.functional.scaled_dot_product_attention(qkv[0], qkv[1], qkv[2])
        x_btd = x_btd + self.project(attended.transpose(1, 2).flatten(2))
        result: Tensor = x_btd + self.mlp(x_btd)
        return result


class _Classifier(nn.Module):
    """Tokens (B, T, D) -> logits (B, K)."""

    def __init__(self, width: int, classes: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.linear = nn.Linear(width, classes)

    def forward(self, tokens: Tensor) -> Tensor:
        result: Tensor = self.linear(self.norm(tokens).mean(dim=1))
        return result


def transformer_blocks(spec: ModelSpec) -> list[ReplicatedBlock]:
    """The builder of the family.

    Raises:
        SpecError: unknown options, patches that do not tile the image, heads that do not divide the width, or
            not one depth per block.
    """
    try:
        options = TransformerOptions.model_validate(spec.options)
    except ValidationError as error:
        raise SpecError(f"{spec.name}: {error}") from error
    _check(spec, options)

    def block(index: int) -> nn.Module:
        stages: list[nn.Module] = [_Patches(spec, options)] if index == 0 else []
        stages += [_Encoder(options) for _ in range(options.layers[index])]
        if index == spec.tree.blocks - 1:
            stages.append(_Classifier(options.width, spec.classes))
        return nn.Sequential(*stages)

    return replicated(spec, [partial(block, index) for index in range(spec.tree.blocks)])


def _check(spec: ModelSpec, options: TransformerOptions) -> None:
    if any(side % options.patch for side in spec.input_shape[1:]):
        raise SpecError(f"patches of {options.patch} pixels do not tile images of {spec.input_shape[1:]}")
    if options.width % options.heads:
        raise SpecError(f"{options.heads} heads do not divide a width of {options.width}")
    if len(options.layers) != spec.tree.blocks:
        raise SpecError(f"{len(options.layers)} depths for {spec.tree.blocks} blocks")
