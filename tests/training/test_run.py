"""What surrounds a run."""

import pytest
import torch

from training.config import TrainConfig
from training.run import advise, fast_precision


@pytest.mark.parametrize(
    ("precision", "device", "capabilities", "advised"),
    [
        ("bf16", "cpu", {"avx2": True, "avx512_bf16": False}, True),
        ("bf16", "cpu", {"avx2": True, "avx512_bf16": True}, False),
        ("bf16", "cpu", {"neon": True, "bf16": True}, False),
        ("float32", "cpu", {"avx2": True}, False),
        ("bf16", "cuda", {"avx2": True}, False),
        ("bf16", "cpu", {}, False),
    ],
)
def test_a_cpu_without_bf16_gets_float32_and_its_user_is_told(
    precision: str,
    device: str,
    capabilities: dict[str, bool],
    advised: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    advise(TrainConfig(precision=precision), torch.device(device))  # type: ignore[arg-type]
    assert ("--precision float32" in capsys.readouterr().err) == advised
    if precision == "bf16":
        assert fast_precision(torch.device(device)) == ("float32" if advised else "bf16")
