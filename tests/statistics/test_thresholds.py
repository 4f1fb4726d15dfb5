"""Times to a threshold, censored where a run never got there: by hand, and properties."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import norm

from sb3_pg import statistics as s
from sb3_pg.statistics import Passage

#: At risk 5, 4, 2: not reached by 3, 5, 8: 4/5, 4/5 * 3/4, 3/5 * 1/2.
PASSAGES = [Passage(8, True), Passage(3, True), Passage(10, False), Passage(5, True), Passage(5, False)]
ALL = [Passage(time, True) for time in (4.0, 1.0, 2.0, 5.0, 3.0)]
NONE = [Passage(100.0, False)] * 4


def a_sample() -> st.SearchStrategy[list[Passage]]:
    passage = st.builds(Passage, time=st.integers(1, 12).map(float), reached=st.booleans())
    return st.lists(passage, min_size=2, max_size=12)


def test_first_passage_by_hand() -> None:
    steps, values = [10, 20, 30, 40], [0, 5, 3, 9]
    assert s.first_passage(steps, values, 5) == Passage(20, True)  # at it is there
    assert s.first_passage(steps, values, 5.1) == Passage(40, True)
    assert s.first_passage(steps, values, 10) == Passage(40, False)
    assert s.first_passage(steps, values, 0) == Passage(10, True)


def test_first_passage_of_a_windows_mean() -> None:
    steps, values = [10, 20, 30, 40], [9, 0, 4, 8]
    assert s.first_passage(steps, values, 4, window=2) == Passage(20, True)  # (9 + 0) / 2
    assert s.first_passage(steps, values, 5, window=2) == Passage(40, True)  # (4 + 8) / 2
    assert s.first_passage(steps, values, 0, window=5) == Passage(40, False)  # a window that was never full


def test_the_curve_by_hand() -> None:
    curve = s.reach_curve(PASSAGES)
    assert curve.times == pytest.approx([3, 5, 8, 10])
    assert curve.share == pytest.approx([0.2, 0.4, 0.7, 0.7])
    # Greenwood: the variance of log S is 1 / (5 * 4), + 1 / (4 * 3), + 1 / (2 * 1)
    survival, variance = np.array([0.8, 0.6, 0.3, 0.3]), np.array([1 / 20, 2 / 15, 19 / 30, 19 / 30])
    width = norm.ppf(0.975) * np.sqrt(variance) / -np.log(survival)
    assert curve.low == pytest.approx(1 - survival ** np.exp(-width))
    assert curve.high == pytest.approx(1 - survival ** np.exp(width))


def test_the_curve_where_all_or_none_have_reached_it() -> None:
    curve = s.reach_curve(ALL)
    assert curve.share == pytest.approx([0.2, 0.4, 0.6, 0.8, 1])
    assert (curve.low[-1], curve.high[-1]) == (pytest.approx(0.025 ** (1 / 5)), 1)
    curve = s.reach_curve(NONE)
    assert (curve.share[0], curve.low[0], curve.high[0]) == (0, 0, pytest.approx(1 - 0.025 ** (1 / 4)))


def test_the_median_by_hand() -> None:
    assert s.median_time(PASSAGES) == 8
    assert s.median_time(ALL) == 3
    assert s.median_time([Passage(1, True), Passage(2, True), Passage(9, False), Passage(9, False)]) == 2
    assert s.median_time([Passage(1, True), Passage(9, False), Passage(9, False)]) is None
    assert s.median_time([Passage(7, True)]) == 7


def test_the_interval_of_the_median() -> None:
    # By the curve of five: its upper limit is above a half from 1 on, its lower one never
    interval = s.median_time_interval(ALL)
    assert interval is not None
    assert (interval.estimate, interval.low, interval.high) == (3, 1, math.inf)
    # Ten at once: a half of them cannot take longer
    assert s.median_time_interval([Passage(7, True)] * 10) == s.Interval(7, 7, 7, 0.95)
    assert s.median_time_interval(NONE) is None
    assert s.median_time_interval([Passage(1, True), Passage(9, False), Passage(9, False)]) is None


def test_the_interval_of_the_median_of_many_runs() -> None:
    """Of 200 times 1, 2, ... it is that of the order statistics 86 and 115 (100 -+ 1.96 * 7.07), but for a step."""
    interval = s.median_time_interval([Passage(float(i), True) for i in range(1, 201)])
    assert interval is not None
    assert [interval.estimate, interval.low, interval.high] == pytest.approx([100, 86, 115], abs=1.5)


def test_the_restricted_mean_by_hand() -> None:
    assert s.restricted_mean_time(PASSAGES, 10) == pytest.approx(3 + 2 * 0.8 + 3 * 0.6 + 2 * 0.3)
    assert s.restricted_mean_time(PASSAGES, 4) == pytest.approx(3 + 0.8)
    assert s.restricted_mean_time(PASSAGES, 2) == pytest.approx(2)
    assert s.restricted_mean_time(ALL, 100) == pytest.approx(3)
    assert s.restricted_mean_time(NONE, 100) == pytest.approx(100)


@given(a_sample(), st.randoms(use_true_random=False))
def test_the_order_of_runs_does_not_matter(passages: list[Passage], random: object) -> None:
    mixed = sorted(passages, key=lambda passage: random.random())  # type: ignore[attr-defined]
    assert s.reach_curve(mixed).share == pytest.approx(s.reach_curve(passages).share)
    assert s.median_time(mixed) == s.median_time(passages)


@given(a_sample(), st.floats(0.5, 100))
def test_bounds(passages: list[Passage], unit: float) -> None:
    curve = s.reach_curve(passages)
    assert (curve.low >= 0).all() and (curve.high <= 1).all()
    assert (curve.low <= curve.share + 1e-12).all() and (curve.share <= curve.high + 1e-12).all()
    for rising in (curve.share, curve.low, curve.high):
        assert (np.diff(rising) >= -1e-12).all()
    horizon = min(passage.time for passage in passages) + 0.5
    if horizon <= curve.times[-1]:
        assert 0 < s.restricted_mean_time(passages, horizon) <= horizon
    median = s.median_time(passages)
    in_units = s.median_time([Passage(unit * passage.time, passage.reached) for passage in passages])
    assert in_units == (None if median is None else pytest.approx(unit * median))


@given(st.lists(st.integers(1, 20), min_size=2, max_size=9))
def test_without_censoring_it_is_the_share_of_runs(times: list[int]) -> None:
    passages = [Passage(float(time), True) for time in times]
    curve = s.reach_curve(passages)
    assert curve.share == pytest.approx([np.mean(np.array(times) <= time) for time in curve.times])
    assert s.restricted_mean_time(passages, 20) == pytest.approx(np.mean(times))


def test_leaving_out_censored_runs_would_make_it_look_faster() -> None:
    reached = [passage for passage in PASSAGES if passage.reached]
    assert s.median_time(reached) == 5 < 8 == s.median_time(PASSAGES)
