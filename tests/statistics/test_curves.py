"""Learning curves: on a grid, in one number, of many runs."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sb3_pg import statistics as s
from sb3_pg.statistics.checks import Floats

NAN = np.nan
STEPS, VALUES = [10.0, 20.0, 40.0], [1.0, 3.0, 2.0]
CURVES = np.random.default_rng(0).normal(size=(6, 3, 9))


def test_on_a_grid_lines_are_drawn_within_what_was_measured() -> None:
    assert s.on_grid(STEPS, VALUES, [0, 10, 15, 20, 30, 40, 41]) == pytest.approx(
        [NAN, 1, 2, 3, 2.5, 2, NAN], nan_ok=True
    )


def test_on_a_grid_the_last_value_stays() -> None:
    last = s.on_grid(STEPS, VALUES, [0, 9.9, 10, 19, 20, 39, 40, 41], between="last")
    assert last == pytest.approx([NAN, NAN, 1, 1, 3, 3, 2, NAN], nan_ok=True)
    until = s.on_grid(STEPS, VALUES, [0, 40, 50, 51], between="last", end=50)
    assert until == pytest.approx([NAN, 2, 2, NAN], nan_ok=True)


def test_of_episodes_that_end_at_one_step_the_last_counts() -> None:
    assert s.on_grid([5, 10, 10], [1, 2, 3], [9, 10], between="last") == pytest.approx([1, 3])


@given(st.lists(st.integers(0, 100), min_size=1, max_size=12, unique=True), st.integers(0, 50))
def test_on_its_own_steps_a_curve_is_itself(steps: list[int], seed: int) -> None:
    x, y = np.sort(steps), np.random.default_rng(seed).normal(size=len(steps))
    assert s.on_grid(x, y, x) == pytest.approx(y)
    assert s.on_grid(x, y, x, between="last") == pytest.approx(y)
    outside = np.array([x[0] - 1, x[-1] + 1])
    assert np.isnan([s.on_grid(x, y, outside), s.on_grid(x, y, outside, between="last")]).all()


def test_a_common_grid_lies_within_every_run() -> None:
    assert s.common_grid([[0, 10, 100], [5, 20, 80], [1, 90]], points=4) == pytest.approx([5, 30, 55, 80])
    assert s.common_grid([STEPS, STEPS]) == pytest.approx(STEPS)  # nothing to interpolate


def test_stacked_runs_of_unequal_lengths() -> None:
    stacked = s.stack_curves([(STEPS, VALUES), ([0, 20], [0, 4])], grid=[0, 10, 20, 30])
    assert stacked == pytest.approx(np.array([[NAN, 1, 3, 2.5], [0, 2, 4, NAN]]), nan_ok=True)
    episodes = s.stack_curves([(STEPS, VALUES)], grid=[15, 40], between="last")
    assert episodes == pytest.approx(np.array([[1, 2]]))


def test_running_mean_by_hand() -> None:
    assert s.running_mean([1, 2, 6, 4, 0], window=3) == pytest.approx([1, 1.5, 3, 4, 10 / 3])
    assert s.running_mean([1, 2, 6]) == pytest.approx([1, 1.5, 3])
    assert s.running_mean([1, 2, 6], window=1) == pytest.approx([1, 2, 6])
    assert s.running_mean([]).shape == (0,)


@given(st.integers(1, 12), st.integers(1, 30))
def test_running_mean_as_a_loop_has_it(window: int, n: int) -> None:
    values = np.random.default_rng(n).normal(size=n)
    naive = [values[max(0, i - window + 1) : i + 1].mean() for i in range(n)]
    assert s.running_mean(values, window) == pytest.approx(naive)


def test_one_number_of_a_curve() -> None:
    assert s.area_under_curve(STEPS, VALUES) == pytest.approx((10 * 2 + 20 * 2.5) / 30)
    assert s.final_score(VALUES) == 2 and s.final_score(VALUES, last=2) == 2.5
    assert s.best_score(VALUES) == 3


@given(st.integers(2, 10), st.floats(0.5, 5), st.floats(-5, 5))
def test_the_area_is_a_mean_over_steps(n: int, stretch: float, shift: float) -> None:
    rng = np.random.default_rng(n)
    steps, values = np.cumsum(rng.uniform(0.1, 2, size=n)), rng.normal(size=n)
    area = s.area_under_curve(steps, values)
    assert values.min() <= area <= values.max()
    assert s.area_under_curve(stretch * steps + shift, values + shift) == pytest.approx(area + shift)
    assert s.area_under_curve(steps, np.full(n, 7.0)) == pytest.approx(7)


def test_an_aggregate_at_each_point() -> None:
    assert s.aggregate_curve(CURVES) == pytest.approx([s.iqm(CURVES[..., point]) for point in range(9)])
    assert s.aggregate_curve(CURVES[:, 0], s.mean) == pytest.approx(CURVES[:, 0].mean(axis=0))
    assert s.aggregate_curve(CURVES[:1, 0]) == pytest.approx(CURVES[0, 0])  # one run will do


def test_a_band_is_the_interval_of_each_point() -> None:
    band = s.curve_band(CURVES, s.mean, resamples=20_000)
    assert band.estimate == pytest.approx(s.aggregate_curve(CURVES, s.mean))
    for point in range(9):
        # Other draws: a limit has a standard error of about 0.02 standard deviations of a mean of 18 scores
        interval = s.bootstrap_interval(s.mean, CURVES[..., point], resamples=20_000, rng=1)
        assert [band.low[point], band.high[point]] == pytest.approx([interval.low, interval.high], abs=0.2 / 18**0.5)


def test_a_band_draws_whole_runs() -> None:
    """Two runs that cross: at any point their mean is the same, but at the middle they don't differ."""
    band = s.curve_band([[0, 1, 2], [2, 1, 0]], s.mean)
    assert (band.low[1], band.high[1]) == (1, 1) and band.low[0] == band.low[2] < 1
    assert s.curve_band([[0, 1, 2], [2, 1, 0]], lambda c: s.mean(c) - s.mean(c).mean(axis=1, keepdims=True)).low[1] == 0


def test_where_a_run_was_not_measured_there_is_no_aggregate() -> None:
    curves = CURVES[:, 0].copy()
    curves[2, :2], curves[4, 8] = NAN, NAN
    missing = [0, 1, 8]
    band, spread = s.curve_band(curves, resamples=100), s.run_spread(curves)
    for values in (band.estimate, band.low, band.high, s.aggregate_curve(curves), spread.lowest, spread.median):
        assert np.flatnonzero(np.isnan(values)).tolist() == missing
    never = [[NAN, 1], [1, NAN]]
    for values in (s.curve_band(never).low, s.aggregate_curve(never), s.run_spread(never).highest):
        assert np.isnan(values).tolist() == [True, True]


def test_the_spread_of_runs_by_hand() -> None:
    spread = s.run_spread(np.array([[0, 5], [1, 5], [2, 5], [3, 5], [10, 5]]))
    columns = (spread.lowest, spread.lower_quartile, spread.median, spread.upper_quartile, spread.highest)
    assert [column[0] for column in columns] == [0, 1, 2, 3, 10]
    assert [column[1] for column in columns] == [5, 5, 5, 5, 5]


def test_more_runs_narrow_the_band_and_not_the_spread() -> None:
    runs = np.random.default_rng(1).normal(size=(200, 1))

    def widths(curves: Floats) -> tuple[float, float]:
        band, spread = s.curve_band(curves, s.mean), s.run_spread(curves)
        return float(band.high[0] - band.low[0]), float(spread.upper_quartile[0] - spread.lower_quartile[0])

    (few_band, few_spread), (many_band, many_spread) = widths(runs[:10]), widths(runs)
    assert many_band < few_band / 2 and many_spread > few_spread / 2
