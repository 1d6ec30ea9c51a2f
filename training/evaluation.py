"""Evaluates every ensemble size 1..N: what it costs, how accurate it is, how far its confidence can be trusted.

Temperatures are fitted on the held-out images, everything else is measured on the test images. All of it in float32, on
a GPU too: TF32, which keeps ten bits of mantissa, is off meanwhile.

Shape legend: L leaves, M images, B batch, K classes.
"""

from __future__ import annotations

import platform
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple, Self

import torch
import torchvision
from pydantic import BaseModel, ConfigDict, JsonValue, ValidationError
from torch import Tensor

from model_core.costs import count_costs
from model_core.grouped import HierarchicalEnsemble
from model_core.package import EnsembleFigures
from model_core.spec import ModelSpec
from training.calibration import expected_calibration_error, fitted_temperature, negative_log_likelihood
from training.data import ImageDataset
from training.errors import DivergedError, RunError
from training.images import Images
from training.progress import bar
from training.run_state import DataCard
from training.streams import BudgetFigures, StreamFigures, budgeted, stream_figures

__all__ = ["Evaluation", "Measurement", "SizeFigures", "evaluate", "leaf_logits", "prefix_accuracies"]

BATCH = 250


class _Figures(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class SizeFigures(_Figures):
    """One ensemble size. Accuracies and calibration errors are 0..1, likelihoods in nats, FLOPs multiply-adds."""

    ensemble_size: int
    flops: int
    accuracy: float
    nll: float
    ece: float
    temperature: float
    calibrated_nll: float
    calibrated_ece: float
    logit_std: float
    """Standard deviation of the logits over the evaluated leaves, mean over classes and images (section 4.1)."""


class Evaluation(_Figures):
    """Every ensemble size and every single leaf of one trained state, with how the figures came about."""

    architecture: str
    evaluated_on: str
    run_sha256: str
    """Digest of the run's state file, so that figures are never taken for those of other weights."""
    epochs: float
    seed: int
    command: str
    versions: dict[str, str]
    settings: dict[str, JsonValue]
    sizes: tuple[SizeFigures, ...]
    leaf_accuracies: tuple[float, ...]
    budgeted: tuple[BudgetFigures, ...] = ()
    """The curve of images that stop when they are confident; empty in files of versions that did not measure it."""
    stream: StreamFigures | None = None
    data: DataCard | None = None
    """What it was trained and measured on; None in files of versions that did not keep it, as the next."""
    spec: ModelSpec | None = None
    """The network that was measured, whatever its name stands for today."""

    @property
    def table(self) -> list[EnsembleFigures]:
        """The rows of a package's manifest: likelihood and calibration of the calibrated probabilities."""
        return [
            EnsembleFigures(
                ensemble_size=row.ensemble_size,
                flops=row.flops,
                accuracy=row.accuracy,
                nll=row.calibrated_nll,
                ece=row.calibrated_ece,
                temperature=row.temperature,
            )
            for row in self.sizes
        ]

    def __str__(self) -> str:
        lines = [" N   MFLOPs  accuracy  leaf N     NLL     ECE  logit std       T  calibrated NLL, ECE"]
        lines += [
            f"{row.ensemble_size:2} {row.flops / 1e6:8.1f} {row.accuracy:9.2%} {leaf:7.2%} {row.nll:7.3f}"
            f" {row.ece:7.3f} {row.logit_std:10.3f} {row.temperature:7.2f} {row.calibrated_nll:15.3f},"
            f" {row.calibrated_ece:.3f}"
            for row, leaf in zip(self.sizes, self.leaf_accuracies, strict=True)
        ]
        if self.stream is not None:
            lines.append(
                f"{self.stream.flips:.2f} changes of class per image; accuracy falls at {self.stream.falls} sizes, "
                f"by {self.stream.largest_fall:.2%} at most"
            )
        return "\n".join(lines)

    @classmethod
    def load(cls, path: Path) -> Self:
        """Read an evaluation.

        Raises:
            RunError: there is none, or it is damaged.
        """
        try:
            return cls.model_validate_json(path.read_bytes())
        except OSError as error:
            raise RunError(f"{path}: cannot be read ({error.strerror}); run `hne-train evaluate` first") from error
        except ValidationError as error:
            raise RunError(f"{path}: is not a complete evaluation; run `hne-train evaluate` again") from error


class Measurement(NamedTuple):
    """What `evaluate` measures; the fields of the same names in `Evaluation`."""

    sizes: tuple[SizeFigures, ...]
    leaf_accuracies: tuple[float, ...]
    budgeted: tuple[BudgetFigures, ...]
    stream: StreamFigures


@contextmanager
def _without_tf32() -> Iterator[None]:
    cudnn, products = torch.backends.cudnn, torch.backends.cuda.matmul
    allowed = cudnn.allow_tf32, products.allow_tf32
    cudnn.allow_tf32 = products.allow_tf32 = False
    try:
        yield
    finally:
        cudnn.allow_tf32, products.allow_tf32 = allowed


@_without_tf32()
@torch.inference_mode()
def evaluate(model: HierarchicalEnsemble, data: ImageDataset) -> Measurement:
    """Measure every ensemble size, every leaf on its own, and the stream of refinements.

    The model and the data are on the same device; the model is left in evaluation mode.

    Raises:
        DivergedError: the model's outputs are no finite numbers.
    """
    flops = count_costs(model).cumulative_flops
    held_out_logits, held_out_labels = leaf_logits(model, data.held_out)
    logits_lmk, labels_m = leaf_logits(model, data.test)
    if not (held_out_logits.isfinite().all() and logits_lmk.isfinite().all()):
        raise DivergedError(
            "the networks' outputs are not finite: the training has diverged; start anew with a lower --lr"
        )
    figures, confidences, predictions = [], [], []
    outputs = zip(prefix_outputs(held_out_logits), prefix_outputs(logits_lmk), strict=True)
    for size, (held_out_mk, output_mk) in enumerate(outputs, 1):
        temperature = fitted_temperature(held_out_mk, held_out_labels)
        confidences.append((output_mk / temperature).softmax(-1).amax(-1))
        predictions.append(output_mk.argmax(-1))
        figures.append(
            SizeFigures(
                ensemble_size=size,
                flops=flops[size],
                accuracy=_accuracy(output_mk, labels_m),
                nll=negative_log_likelihood(output_mk, labels_m),
                ece=expected_calibration_error(output_mk, labels_m),
                temperature=temperature,
                calibrated_nll=negative_log_likelihood(output_mk, labels_m, temperature=temperature),
                calibrated_ece=expected_calibration_error(output_mk, labels_m, temperature=temperature),
                logit_std=logits_lmk[:size].std(0, correction=0).mean().item(),
            )
        )
    predicted_nm = torch.stack(predictions)
    right_nm = predicted_nm == labels_m
    return Measurement(
        sizes=tuple(figures),
        leaf_accuracies=tuple(_accuracy(leaf_mk, labels_m) for leaf_mk in logits_lmk),
        budgeted=tuple(budgeted(torch.stack(confidences), right_nm, flops[1:])),
        stream=stream_figures(predicted_nm, right_nm),
    )


@torch.inference_mode()
def leaf_logits(model: HierarchicalEnsemble, images: Images, *, bf16: bool = False) -> tuple[Tensor, Tensor]:
    """Logits of every leaf for a whole split, (L, M, K) float32, and its labels (M,).

    The model is left in evaluation mode.
    """
    model.eval()
    logits, labels = [], []
    with bar("evaluating", total=len(images), keep=False) as progress:
        for batch, targets in images.evaluation_batches(BATCH):
            with torch.autocast(batch.device.type, torch.bfloat16, enabled=bf16):
                logits.append(model(batch).float())
            labels.append(targets)
            progress.update(len(targets))
    return torch.cat(logits, dim=1), torch.cat(labels)


def prefix_outputs(logits_lmk: Tensor) -> Iterator[Tensor]:
    """y_n (M, K) for n = 1..L, one at a time: all of them for ImageNet would fill gigabytes."""
    total_mk = torch.zeros_like(logits_lmk[0])
    for size, leaf_mk in enumerate(logits_lmk, 1):
        total_mk += leaf_mk
        yield total_mk / size


def prefix_accuracies(logits_lmk: Tensor, labels_m: Tensor) -> list[float]:
    """Accuracy (0..1) of each ensemble size 1..L."""
    return [_accuracy(output_mk, labels_m) for output_mk in prefix_outputs(logits_lmk)]


def versions() -> dict[str, str]:
    """What the figures were computed with."""
    return {
        "python": platform.python_version(),
        "torch": str(torch.__version__),
        "torchvision": str(torchvision.__version__),
    }


def _accuracy(logits_mk: Tensor, labels_m: Tensor) -> float:
    return (logits_mk.argmax(-1) == labels_m).double().mean().item()
