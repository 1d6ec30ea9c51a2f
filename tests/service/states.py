"""What an engine looks like, for tests of what shows it."""

from __future__ import annotations

from service.state import EngineSettings, EngineState, StepProfile

__all__ = ["state"]


def state(*, waiting: int = 0, admitted: int = 0) -> EngineState:
    """An engine with so many requests."""
    return EngineState(
        settings=EngineSettings(max_waiting=9, max_active=8, max_batch=4),
        runner="onnx-cpu",
        memory_bytes=1000,
        active=admitted - waiting,
        admitted=admitted,
        waiting=waiting,
        max_batch=4,
        straggle=1.5,
        draining=False,
        ensemble_size_allowed=16,
        latencies=(0.001,),
        profile=(StepProfile(ensemble_size=1, expected={1: 0.001, 4: 0.003}, quantile={1: 0.002, 4: 0.004}),),
    )
