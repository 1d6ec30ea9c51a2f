"""Which device computes: what was asked for, or a refusal that says what is missing."""

import logging

import onnxruntime
import pytest
import torch

from model_core.package import Package
from service.errors import SettingsError
from service.local import make_runner
from service.runners.devices import Device, open_session
from service.settings import Settings

BUILT_WITH_CUDA = "CUDAExecutionProvider" in onnxruntime.get_available_providers()
no_gpu = pytest.mark.skipif(torch.cuda.is_available(), reason="PyTorch finds a GPU")


def name_of(package: Package, runner: str) -> str:
    made = make_runner(package, Settings.model_validate({"runner": runner, "threads": 1}))
    made.close()
    return made.name


def test_cpu_is_the_cpu(package: Package) -> None:
    assert name_of(package, "cpu") == "onnx-cpu"


@no_gpu
def test_cuda_is_refused_where_onnx_runtime_cannot_use_it(package: Package) -> None:
    missing = "would compute on the CPU" if BUILT_WITH_CUDA else "is built without CUDA here"
    with pytest.raises(SettingsError, match=rf"runner onnx-cuda: .*{missing}.*hne-serve\[gpu\]"):
        name_of(package, "onnx-cuda")


@no_gpu
def test_cuda_is_refused_where_pytorch_finds_no_gpu(package: Package) -> None:
    with pytest.raises(SettingsError, match=r"runner cuda: PyTorch finds no GPU.*driver.*hne-serve\[gpu\]"):
        name_of(package, "cuda")


@no_gpu
@pytest.mark.filterwarnings("ignore:Specified provider 'CUDAExecutionProvider':UserWarning")  # of a build without CUDA
def test_a_session_that_fell_back_to_the_cpu_is_refused(package: Package) -> None:
    with pytest.raises(SettingsError, match=r"would compute on the CPU.*driver.*cuDNN"):
        open_session(package.step(0), onnxruntime.SessionOptions(), Device.CUDA)


@pytest.mark.parametrize("runner", ["cpu", "onnx-cuda", "auto"])
@pytest.mark.skipif(torch.cuda.is_available(), reason="auto is a GPU here")
def test_a_precision_that_is_not_to_be_had_is_refused(package: Package, runner: str) -> None:
    settings = Settings.model_validate({"runner": runner, "precision": "bfloat16", "threads": 1})
    with pytest.raises(SettingsError, match=r"precision bfloat16: runner .* computes in float32"):
        make_runner(package, settings)


def test_auto_is_what_works_and_quiet(
    package: Package, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    with caplog.at_level(logging.WARNING):
        resolved = name_of(package, "auto")
    assert resolved == ("pytorch-cuda" if torch.cuda.is_available() else "onnx-cpu")
    assert (caplog.text, *capfd.readouterr()) == ("", "", "")


def test_the_old_name_is_told_the_new_ones() -> None:
    with pytest.raises(ValueError, match="'auto', 'cpu', 'cuda' or 'onnx-cuda'"):
        Settings.model_validate({"runner": "onnx"})
