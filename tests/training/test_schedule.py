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


def test_the_averaged_share_has_a_constant_rate_to_which_the_cosine_falls() -> None:
    rates = [learning_rate(epoch, peak=0.1, epochs=4, swa=0.5, swa_lr=0.04) for epoch in (0, 1, 2, 3.9)]
    assert rates == pytest.approx([0.1, 0.07, 0.04, 0.04])


def test_a_run_that_is_averaged_as_a_whole_never_has_the_peak_rate() -> None:
    rates = [learning_rate(e, peak=0.1, epochs=2, warmup_epochs=0.5, swa=1, swa_lr=0.04) for e in (0.25, 0.5, 1, 2)]
    assert rates == pytest.approx([0.02, 0.04, 0.04, 0.04])
