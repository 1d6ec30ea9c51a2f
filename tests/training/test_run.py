"""What surrounds a run."""

from pathlib import Path

import pytest
import torch

from model_core.package import digest
from model_core.spec import ModelSpec
from training.config import TrainConfig
from training.data import load_dataset
from training.run import advise, evaluate_run, fast_precision
from training.run_state import STATE_FILE, RunState
from training.trainer import new_run


@pytest.mark.parametrize(
    ("precision", "device", "capabilities", "advised"),
    [
        ("bf16", "cpu", {"avx2": True, "avx512_bf16": False}, True),
        ("bf16", "cpu", {"avx2": True, "avx512_bf16": True}, False),
        ("bf16", "cpu", {"neon": True, "bf16": True}, False),
        ("float32", "cpu", {"avx2": True}, False),
        ("bf16", "cuda", {"ampere": True}, False),
        ("bf16", "cuda", {"ampere": False}, True),
        ("bf16", "cpu", {}, False),
    ],
)
def test_a_processor_without_bf16_gets_float32_and_its_user_is_told(
    precision: str,
    device: str,
    capabilities: dict[str, bool],
    advised: bool,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: capabilities["ampere"])
    advise(TrainConfig(precision=precision), torch.device(device))  # type: ignore[arg-type]
    assert ("--precision float32" in capsys.readouterr().err) == advised
    if precision == "bf16":
        assert fast_precision(torch.device(device)) == ("float32" if advised else "bf16")


def test_figures_name_the_weights_that_were_measured_though_the_run_has_gone_on(
    image_folder: Path, small_spec: ModelSpec, tmp_path: Path
) -> None:
    device = torch.device("cpu")
    config = TrainConfig(dataset="folder", data=image_folder, epochs=1, batch_size=10).resolved()
    data = load_dataset(config, size=(16, 16), device=device)
    new_run(config, small_spec, data).save(tmp_path)
    measured, state = digest(tmp_path / STATE_FILE).sha256, RunState.load(tmp_path)
    further = new_run(config, small_spec, data)
    next(further.model.parameters()).data.add_(1)
    further.save(tmp_path)
    assert evaluate_run(tmp_path, state, device, data, command="").run_sha256 == measured
    assert RunState.load(tmp_path).sha256 == digest(tmp_path / STATE_FILE).sha256 != measured
