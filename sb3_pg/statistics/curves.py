"""Scores over the course of training: runs of unequal lengths on one grid, and what is read from a curve.

A point at which nothing was measured is nan, and so is every statistic of several runs in which one of them is.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import ArrayLike, NDArray
from scipy.integrate import trapezoid

from sb3_pg.statistics.aggregates import iqm
from sb3_pg.statistics.checks import Floats, as_floats
from sb3_pg.statistics.intervals import Band, Method, Statistic, bootstrap_band

Between = Literal["linear", "last"]
BETWEEN = get_args(Between)


def check_curve(steps: ArrayLike, values: ArrayLike) -> tuple[Floats, Floats]:
    """A curve as two arrays ``(measurements,)``: steps never fall, and every value is finite."""
    x, y = as_floats(steps, "steps"), as_floats(values, "values")
    if x.ndim != 1 or x.shape != y.shape:
        raise ValueError(f"steps and values must have one shape (measurements,), got {x.shape} and {y.shape}")
    if x.size == 0:
        raise ValueError("a curve needs at least one measurement, got none")
    if not np.isfinite(x).all() or (np.diff(x) < 0).any():
        raise ValueError("steps must be finite and ascending: sort the measurements by their steps")
    if not np.isfinite(y).all():
        first = int(np.flatnonzero(~np.isfinite(y))[0])
        raise ValueError(f"values must be finite, got {y[first]} at step {x[first]:g}: cut the run before it")
    return x, y


def on_grid(
    steps: ArrayLike, values: ArrayLike, grid: ArrayLike, between: Between = "linear", end: float | None = None
) -> Floats:
    """A run's values at other steps than those at which it was measured. Outside of what was measured: nan.

    :param steps: ``(measurements,)``, ascending; seconds or gradient steps do as well
    :param values: ``(measurements,)``
    :param grid: ``(points,)``
    :param between: two measurements, ``"linear"`` interpolates and ``"last"`` keeps the last value, which is what is
        known of training episodes at any moment
    :param end: with ``"last"``, until where the run is known to have gone on after its last measurement
    :return: ``(points,)``
    """
    x, y = check_curve(steps, values)
    points = as_floats(grid, "grid")
    if between not in BETWEEN:
        raise ValueError(f"between must be one of {', '.join(map(repr, BETWEEN))}, got {between!r}")
    if between == "linear":
        if end is not None:
            raise ValueError("end goes with between='last': a line needs a measurement at its end")
        if (np.diff(x) == 0).any():
            raise ValueError("steps must differ for between='linear': take between='last', or one value of each step")
        return np.interp(points, x, y, left=np.nan, right=np.nan)
    known = (points >= x[0]) & (points <= (x[-1] if end is None else max(end, x[-1])))
    return np.where(known, y[np.searchsorted(x, points, side="right") - 1], np.nan)


def common_grid(steps: Sequence[ArrayLike], points: int = 101) -> Floats:
    """Steps that lie within the measurements of every run: those of all of them if they are the same.

    :param steps: ``(measurements,)`` of each run
    :param points: how many, evenly spaced, where the runs were measured at different steps
    :return: ``(points,)``
    """
    if not steps:
        raise ValueError("there are no runs to lay a grid over")
    curves = [check_curve(of_run, np.zeros(np.shape(of_run)))[0] for of_run in steps]
    if all(np.array_equal(curve, curves[0]) for curve in curves):
        return curves[0]
    start, stop = max(curve[0] for curve in curves), min(curve[-1] for curve in curves)
    if start >= stop:
        raise ValueError(f"the runs share no steps: one begins at {start:g}, another ends at {stop:g}")
    return np.linspace(start, stop, points)


def stack_curves(runs: Iterable[tuple[ArrayLike, ArrayLike]], grid: ArrayLike, between: Between = "linear") -> Floats:
    """Runs of unequal lengths and steps as rows on one grid, see :func:`on_grid`.

    :param runs: steps and values of each
    :return: ``(runs, points)``
    """
    rows = [on_grid(steps, values, grid, between) for steps, values in runs]
    if not rows:
        raise ValueError("there are no runs to stack")
    return np.stack(rows)


def running_mean(values: ArrayLike, window: int = 100) -> Floats:
    """Mean of each value and those before it, as many as the window holds; fewer at the beginning.

    :param values: ``(episodes,)`` in the order in which they ended
    :param window: 100 as in SB3's ``ep_rew_mean``
    :return: ``(episodes,)``
    """
    array = as_floats(values, "values")
    if array.ndim != 1 or window < 1:
        raise ValueError(
            f"a running mean needs values in a row and a window of at least 1, got {array.shape}, {window}"
        )
    head = np.cumsum(array[: window - 1]) / np.arange(1, min(window, len(array) + 1))
    if len(array) < window:
        return head
    return np.concatenate([head, sliding_window_view(array, window).mean(axis=-1)])


def area_under_curve(steps: ArrayLike, values: ArrayLike) -> float:
    """Area under the straight lines between measurements, divided by their span: the mean score over training.

    :param steps: ``(measurements,)``, ascending; two or more of them
    :param values: ``(measurements,)``
    """
    x, y = check_curve(steps, values)
    span = x[-1] - x[0]
    if span <= 0:
        raise ValueError(f"an area needs measurements at two steps, got step {x[0]:g} alone")
    return float(trapezoid(y, x) / span)


def final_score(values: ArrayLike, last: int = 1) -> float:
    """Mean of the last measurements.

    :param values: ``(measurements,)`` in the order of training
    :param last: how many; with more there is less noise, and it is less final
    """
    array = check_curve(np.arange(np.size(values)), values)[1]
    if not 1 <= last <= len(array):
        raise ValueError(f"last must be between 1 and the {len(array)} measurements that there are, got {last}")
    return float(array[-last:].mean())


def best_score(values: ArrayLike) -> float:
    """The highest measurement: a maximum of noisy ones, so higher than any policy of the run is expected to score.

    :param values: ``(measurements,)``
    """
    return float(check_curve(np.arange(np.size(values)), values)[1].max())


def aggregate_curve(curves: ArrayLike, statistic: Statistic = iqm) -> Floats:
    """An aggregate at each point of the grid.

    :param curves: ``(runs, points)``, or ``(runs, tasks, points)``
    :return: ``(points,)``, nan where one of the runs is
    """
    array, measured = _curves(curves)
    if not measured.any():
        return np.full(len(measured), np.nan)
    return _spread_out(_pointwise(statistic)(array[None, ..., measured])[0], measured)


def curve_band(
    curves: ArrayLike,
    statistic: Statistic = iqm,
    *,
    level: float = 0.95,
    method: Method = "expanded",
    resamples: int = 2_000,
    rng: int | np.random.Generator = 0,
) -> Band:
    """An aggregate at each point of the grid and how far it can be trusted: whole runs are drawn anew.

    :param curves: ``(runs, points)``, or ``(runs, tasks, points)``
    :return: pointwise; nan where one of the runs is
    """
    array, measured = _curves(curves)
    if len(array) < 2:
        raise ValueError("one seed allows no interval: there is one curve, give at least two, or show it alone")
    if not measured.any():
        nothing = np.full(len(measured), np.nan)
        return Band(nothing, nothing, nothing, level)
    band = bootstrap_band(
        _pointwise(statistic), array[..., measured], level=level, method=method, resamples=resamples, rng=rng
    )
    estimate, low, high = (_spread_out(values, measured) for values in (band.estimate, band.low, band.high))
    return Band(estimate, low, high, level)


@dataclass(frozen=True)
class RunSpread:
    """How far the runs lie apart at each point; more runs do not make it narrower. Every array is ``(points,)``."""

    lowest: Floats
    lower_quartile: Floats
    median: Floats
    upper_quartile: Floats
    highest: Floats


def run_spread(curves: ArrayLike) -> RunSpread:
    """The spread between the runs of one task, which is not the confidence of their mean.

    :param curves: ``(runs, points)``
    :return: nan where one of the runs is
    """
    array, measured = _curves(curves)
    if array.shape[1] != 1:
        raise ValueError(f"the spread is that of one task's runs, got {array.shape[1]} tasks: ask for one at a time")
    quartiles = np.quantile(array[:, 0, measured], [0, 0.25, 0.5, 0.75, 1], axis=0)
    return RunSpread(*(_spread_out(values, measured) for values in quartiles))


def _curves(curves: ArrayLike) -> tuple[Floats, NDArray[np.bool_]]:
    """Curves ``(runs, tasks, points)``, and at which points all of them were measured."""
    array = as_floats(curves, "curves")
    if array.ndim == 2:
        array = array[:, None]
    if array.ndim != 3 or array.size == 0:
        raise ValueError(f"curves must have shape (runs, points) or (runs, tasks, points), got {np.shape(curves)}")
    return array, np.asarray(np.isfinite(array).all(axis=(0, 1)))


def _pointwise(statistic: Statistic) -> Statistic:
    """A statistic of ``(batch, runs, tasks)`` for ``(batch, runs, tasks, points)``."""
    return lambda curves: statistic(np.moveaxis(curves, -1, 1))


def _spread_out(values: Floats, measured: NDArray[np.bool_]) -> Floats:
    array = np.full(len(measured), np.nan)
    array[measured] = values
    return array
