"""Layers: what a convolution computes in."""

import torch

from model_core.layers import ConvNorm


def test_in_bf16_on_a_cpu_strided_depthwise_convolutions_stay_in_float32() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 8, 6, 6)
    depthwise, dense = ConvNorm(8, 8, 3, stride=2, groups=8).eval(), ConvNorm(8, 8, 3, stride=2).eval()
    exact = depthwise(x), dense(x)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = depthwise(x), dense(x)
    assert torch.equal(rounded[0], exact[0])
    assert not torch.equal(rounded[1].float(), exact[1])
