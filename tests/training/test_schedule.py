"""The learning rate over a run."""

from __future__ import annotations

import pytest

from training.schedule import learning_rate


def test_cosine_from_the_peak_to_zero() -> None:
    rates = [learning_rate(epoch, peak=0.1, epochs=4) for epoch in (0, 1, 2, 3, 4)]
    assert rates == pytest.approx([0.1, 0.08535534, 0.05, 0.01464466, 0.0])


def test_warm_up_rises_linearly_to_the_peak_and_joins_the_cosine() -> None:
    rates = [learning_rate(epoch, peak=0.1, epochs=5, warmup_epochs=2) for epoch in (0, 0.5, 1, 2, 3.5, 5)]
    assert rates == pytest.approx([0, 0.025, 0.05, 0.1, 0.05, 0])
