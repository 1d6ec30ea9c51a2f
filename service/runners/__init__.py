"""Runners compute segments; `base.Runner` is the interface, `onnx` the implementation that needs no torch,
`devices` where that one computes."""

from service.runners.base import Array, Runner

__all__ = ["Array", "Runner"]
