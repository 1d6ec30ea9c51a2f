"""Runners compute segments; `base.Runner` is the interface, `onnx` the implementation that needs no torch."""

from service.runners.base import Array, Runner

__all__ = ["Array", "Runner"]
