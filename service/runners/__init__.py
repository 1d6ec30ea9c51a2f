"""Runners compute segments and keep what later segments start from; `base.Runner` is the interface.

`onnx` needs no torch, `devices` tells where it computes, `activations` is what it keeps.
"""

from service.runners.base import Array, Rows, Runner

__all__ = ["Array", "Rows", "Runner"]
