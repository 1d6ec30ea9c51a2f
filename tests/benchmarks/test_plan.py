"""What is sent when: rates and variation by statistics with fixed seeds."""

import numpy as np
import pytest

from benchmarks.load.plan import Knots, arrivals, burst, constant, draw_plan, ramp


def instants(rate: Knots, cv2: float = 1.0, seed: int = 0) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    return arrivals(rate, np.random.default_rng(seed), cv2=cv2)


@pytest.mark.parametrize("cv2", [0.25, 1.0, 4.0, 8.0])
def test_gaps_have_the_rate_and_the_variation_asked_for(cv2: float) -> None:
    gaps = np.diff(instants(constant(200.0, 500.0), cv2))
    standard_error = np.sqrt(cv2 / len(gaps))
    assert gaps.mean() * 200 == pytest.approx(1, abs=4 * standard_error)
    assert gaps.var() / gaps.mean() ** 2 == pytest.approx(cv2, rel=0.1)


def test_poisson_counts_vary_as_much_as_their_mean() -> None:
    counts, _ = np.histogram(instants(constant(100.0, 1000.0)), bins=1000, range=(0, 1000))
    assert counts.var() / counts.mean() == pytest.approx(1, abs=0.2)


@pytest.mark.parametrize(
    ("rate", "bins", "expected"),
    [
        (ramp(0.0, 800.0, 100.0), 4, [2500, 7500, 12500, 17500]),
        (ramp(800.0, 0.0, 100.0), 4, [17500, 12500, 7500, 2500]),
        (burst(50.0, 1000.0, start=25.0, stop=50.0, seconds=100.0), 4, [1250, 25000, 1250, 1250]),
    ],
)
def test_a_changing_rate_is_followed(rate: Knots, bins: int, expected: list[float]) -> None:
    counts, _ = np.histogram(instants(rate), bins=bins, range=(0, 100))
    assert counts == pytest.approx(expected, rel=0.08)


def test_a_jump_is_sharp_and_silence_is_silent() -> None:
    quiet_first = instants([(0.0, 0.0), (10.0, 0.0), (10.0, 500.0), (20.0, 500.0)])
    assert 10 < quiet_first[0] < 10.05
    assert len(instants(constant(0.0, 100.0))) == 0


@pytest.mark.parametrize("rate", [[(0.0, -1.0), (1.0, 1.0)], [(1.0, 1.0), (0.0, 1.0)]])
def test_rates_that_make_no_sense_are_refused(rate: Knots) -> None:
    with pytest.raises(ValueError, match="must ascend"):
        instants(rate)


def test_a_plan_is_the_same_for_the_same_seed_and_draws_evenly() -> None:
    def plan(seed: int) -> list[list[float]]:
        drawn = draw_plan(constant(300.0, 20.0), deadlines=[0.01, 0.03], images=5, seed=seed)
        return [drawn.arrivals.tolist(), drawn.deadlines.tolist(), drawn.images.tolist()]

    assert plan(1) == plan(1)
    assert plan(1) != plan(2)
    moments, deadlines, images = plan(1)
    assert moments == sorted(moments)
    assert deadlines.count(0.01) / len(deadlines) == pytest.approx(0.5, abs=0.04)
    assert np.bincount(np.array(images, int)) == pytest.approx([len(images) / 5] * 5, rel=0.15)
