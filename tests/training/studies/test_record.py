"""Means and deviations over seeds."""

from __future__ import annotations

import pytest

from training.studies.record import Spread


def test_one_seed_has_no_deviation_and_several_have_that_of_one_seed() -> None:
    assert Spread.of([3.0]) == (3.0, None)
    mean, deviation = Spread.of([1.0, 2.0, 6.0])
    assert mean == 3.0
    assert deviation == pytest.approx(((4 + 1 + 9) / 2) ** 0.5)
