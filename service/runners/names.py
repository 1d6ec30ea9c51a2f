"""What the settings may ask of a runner, for those who load none."""

from typing import Literal

__all__ = ["Precision", "RunnerName"]

RunnerName = Literal["auto", "cpu", "cuda", "onnx-cuda"]
Precision = Literal["float32", "bfloat16", "float16"]
