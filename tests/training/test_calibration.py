"""Calibration on data whose answer is known."""

from __future__ import annotations

import math

import pytest
import torch

from training.calibration import expected_calibration_error, fitted_temperature, negative_log_likelihood


def sampled(count: int, classes: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    """Logits, and labels drawn from their softmax: calibrated at temperature 1."""
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(count, classes, generator=generator)
    return logits, torch.multinomial(logits.softmax(-1), 1, generator=generator)[:, 0]


@pytest.mark.parametrize("scale", [0.25, 1.0, 3.0])
def test_the_fitted_temperature_undoes_a_scaling_of_the_logits(scale: float) -> None:
    logits, labels = sampled(20_000)
    assert fitted_temperature(scale * logits, labels) == pytest.approx(scale, rel=0.05)


def test_the_fitted_temperature_is_no_worse_than_its_neighbours() -> None:
    logits, labels = sampled(500)
    best = fitted_temperature(3 * logits, labels)
    nll = [negative_log_likelihood(3 * logits, labels, temperature=best * factor) for factor in (0.98, 1, 1.02)]
    assert min(nll) == nll[1]


def test_images_that_are_all_classified_correctly_give_the_lower_limit() -> None:
    logits = 10 * torch.eye(3)
    assert fitted_temperature(logits, torch.arange(3)) == pytest.approx(0.05, rel=1e-3)


def test_likelihood_of_a_uniform_prediction() -> None:
    assert negative_log_likelihood(torch.zeros(5, 8), torch.arange(5)) == pytest.approx(math.log(8))


def test_calibration_error_is_the_gap_between_confidence_and_accuracy() -> None:
    logits = torch.tensor([[math.log(4), 0.0]] * 10)  # 80 % sure of class 0
    half_right = torch.tensor([0, 1] * 5)
    assert expected_calibration_error(logits, half_right) == pytest.approx(0.3)
    eight_of_ten = torch.tensor([0] * 8 + [1] * 2)
    assert expected_calibration_error(logits, eight_of_ten) == pytest.approx(0, abs=1e-6)


def test_over_and_under_confidence_in_different_bins_do_not_cancel() -> None:
    logits = torch.tensor([[math.log(4), 0.0], [math.log(1.5), 0.0]])  # 80 % and 60 % sure of class 0
    assert expected_calibration_error(logits, torch.tensor([0, 1])) == pytest.approx((0.2 + 0.6) / 2)
