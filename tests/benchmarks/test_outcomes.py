"""What the figures of a run count."""

from dataclasses import replace
from math import inf, nan

import pytest

from benchmarks.load.outcomes import LOST, MISSED, REFUSED, Outcome, summary, time_series

GOOD = Outcome(
    intended=1.0, sent=1.0, answered=1.02, deadline=0.03, status=200, ensemble_size=8, flops=80, correct=True
)
WRONG = replace(GOOD, correct=False, ensemble_size=4)
LATE = replace(GOOD, answered=1.05)
NOTHING = replace(GOOD, answered=1.001, ensemble_size=0, flops=0, correct=False)
REFUSAL = replace(NOTHING, status=REFUSED)
GONE = replace(NOTHING, status=LOST, answered=nan)


def test_only_correct_answers_on_time_count_of_all_that_was_offered() -> None:
    figures = summary([GOOD, WRONG, LATE, REFUSAL, replace(NOTHING, status=MISSED), GONE, replace(GONE, status=500)], 2)
    assert (figures["offered"], figures["offered/s"], figures["delivered"]) == (7, 3.5, 3)
    assert figures["goodput"] == pytest.approx(1 / 7)
    assert figures["attainment"] == pytest.approx(2 / 7)
    assert [figures[name] for name in ("refused", "missed", "lost", "failed", "late")] == [1, 1, 1, 1, 1]
    assert figures["on time of delivered"] == pytest.approx(2 / 3)
    assert figures["right of delivered"] == pytest.approx(2 / 3)
    assert figures["sizes"] == {4: 1, 8: 2}
    assert figures["mean size"] == pytest.approx(20 / 3)


def test_latency_counts_from_the_intended_send_time() -> None:
    behind = replace(GOOD, sent=1.019)
    assert summary([behind], 1)["p50 ms"] == pytest.approx(20)
    assert not replace(behind, answered=1.031).on_time


def test_overrun_is_what_delivered_answers_exceed_their_deadline_by() -> None:
    figures = summary([*[GOOD] * 998, LATE, replace(LATE, answered=1.13)], 1)
    assert figures["overrun p99.9 ms"] == pytest.approx(20)
    assert figures["overrun max ms"] == pytest.approx(100)
    assert summary([GOOD] * 9, 1)["overrun max ms"] == 0
    assert replace(LATE, deadline=inf).on_time


def test_a_run_whose_sender_fell_behind_is_marked() -> None:
    behind = replace(GOOD, sent=1.004)
    assert summary([*[GOOD] * 99, behind], 1)["valid"]
    figures = summary([*[GOOD] * 97, *[behind] * 3], 1)
    assert not figures["valid"]
    assert figures["lag p99 ms"] == pytest.approx(4)
    assert summary([replace(behind, deadline=0.1)] * 5, 1)["valid"]  # little against such a deadline


def test_the_first_prediction_of_a_stream_is_measured_where_there_was_one() -> None:
    figures = summary([replace(GOOD, first=1.004), GOOD, REFUSAL], 1)
    assert figures["first p50 ms"] == pytest.approx(4)
    assert summary([REFUSAL], 1)["first p50 ms"] is None


def test_the_course_of_a_run_shows_in_bins() -> None:
    at = [replace(GOOD, intended=0.2, answered=0.21), replace(REFUSAL, intended=0.3), replace(REFUSAL, intended=2.9)]
    first, second, third = time_series(at, 3.0, width=1.0)
    assert (first["offered/s"], first["goodput"], first["mean size"]) == (2, 0.5, 8)
    assert (second["offered/s"], second["goodput"]) == (0, None)
    assert (third["goodput"], third["mean size"]) == (0, None)


def test_nothing_offered_has_no_figures() -> None:
    with pytest.raises(ValueError, match="nothing was offered"):
        summary([], 1)
