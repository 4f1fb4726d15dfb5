"""How long it takes to reach a score. A run that never does is not left out: it took longer than it was watched."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from numpy.typing import ArrayLike
from scipy.stats import CensoredData, ecdf

from sb3_pg.statistics.checks import Floats, check_fraction
from sb3_pg.statistics.curves import check_curve
from sb3_pg.statistics.intervals import Interval

#: A share that is a half but for rounding is one.
ROUNDING = 1e-12


@dataclass(frozen=True)
class Passage:
    """When a run reached a threshold.

    :param time: steps or seconds: of the first measurement that reached it, or of the last one if none did
    :param reached: False: it would have taken longer than ``time`` (censored)
    """

    time: float
    reached: bool


@dataclass(frozen=True)
class ReachCurve:
    """Share of runs that have reached the threshold, over time; it jumps at ``times`` and is 0 before the first.

    :param times: ``(times,)``, every time of a run, ascending
    :param share: ``(times,)``, from this time on
    :param low: ``(times,)``, lower limit
    :param high: ``(times,)``, upper limit
    :param level: how often the interval of one time holds the true share
    """

    times: Floats
    share: Floats
    low: Floats
    high: Floats
    level: float


def first_passage(times: ArrayLike, values: ArrayLike, threshold: float, window: int = 1) -> Passage:
    """The first measurement at or above a threshold. The score got there somewhere between the one before and this one.

    :param times: ``(measurements,)``, ascending: steps, or seconds
    :param values: ``(measurements,)``
    :param window: the mean of so many successive measurements has to reach it, and does so at the last of them
    """
    x, y = check_curve(times, values)
    if not math.isfinite(threshold) or window < 1:
        raise ValueError(f"a passage needs a finite threshold and a window of at least 1, got {threshold}, {window}")
    if window <= len(y):
        (reached,) = np.nonzero(sliding_window_view(y, window).mean(axis=-1) >= threshold)
        if reached.size:
            return Passage(float(x[reached[0] + window - 1]), True)
    return Passage(float(x[-1]), False)


def reach_curve(passages: Sequence[Passage], level: float = 0.95) -> ReachCurve:
    """The estimate of Kaplan & Meier 1958 ("Nonparametric estimation from incomplete observations").

    The limits are those of log(-log(1 - share)) with Greenwood's variance. Where all runs or none have reached the
    threshold there is no such variance; there they are those of Clopper & Pearson 1934 ("The use of confidence or
    fiducial limits illustrated in the case of the binomial"): of none among the runs that are still watched, and of
    all runs. If some of these were censored before, the lower limit stays what it was.

    :param passages: of each run
    :raises ValueError: from one run there is no interval
    """
    check_fraction(level, "level")
    if len(passages) == 1:
        raise ValueError("one seed allows no interval: got the passage of one run, give at least two")
    curve = ecdf(_sample(passages)).cdf
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "The confidence interval is undefined", RuntimeWarning)
        limits = curve.confidence_interval(confidence_level=level, method="log-log")
    low, high = (np.array(limit.probabilities) for limit in (limits.low, limits.high))
    none, every = curve.probabilities <= 0, curve.probabilities >= 1
    watched = np.array([sum(passage.time >= time for passage in passages) for time in curve.quantiles])
    unlikely = (1 - level) / 2
    low[none], high[none] = 0.0, 1 - unlikely ** (1 / watched[none])
    low[every], high[every] = 0.0, 1.0
    if all(passage.reached for passage in passages):
        low[every] = unlikely ** (1 / len(passages))
    return ReachCurve(curve.quantiles, curve.probabilities, np.maximum.accumulate(low), high, level)


def median_time(passages: Sequence[Passage]) -> float | None:
    """The time at which half of the runs have reached the threshold, by Kaplan and Meier; None if half never do."""
    curve = ecdf(_sample(passages)).cdf
    return _first(curve.quantiles, curve.probabilities)


def median_time_interval(passages: Sequence[Passage], level: float = 0.95) -> Interval | None:
    """The median time with the interval of the times at which the share of :func:`reach_curve` may be a half.

    (Brookmeyer & Crowley 1982, "A confidence interval for the median survival time".)

    :return: None if half of the runs never reach the threshold; the upper limit is inf where the runs set none
    """
    curve = reach_curve(passages, level)
    estimate = _first(curve.times, curve.share)
    if estimate is None:
        return None
    low, high = _first(curve.times, curve.high), _first(curve.times, curve.low)
    return Interval(estimate, estimate if low is None else low, math.inf if high is None else high, level)


def restricted_mean_time(passages: Sequence[Passage], horizon: float) -> float:
    """Mean of the time to the threshold, where what takes longer than the horizon counts as the horizon.

    The area above the curve of Kaplan and Meier (Royston & Parmar 2013, "Restricted mean survival time").

    :param horizon: the same for all that is compared, the budget for instance
    :raises ValueError: for a horizon beyond what was watched, if not all runs have reached the threshold by then
    """
    curve = ecdf(_sample(passages)).cdf
    last = float(curve.quantiles[-1])
    if not horizon > 0 or not math.isfinite(horizon):
        raise ValueError(f"horizon must be a finite time > 0, got {horizon}")
    if horizon > last and curve.probabilities[-1] < 1:
        raise ValueError(f"no run was watched after {last:g}, so horizon must be at most that, got {horizon:g}")
    inside = curve.quantiles < horizon
    edges = np.concatenate([[0.0], curve.quantiles[inside], [horizon]])
    missing = np.concatenate([[1.0], 1 - curve.probabilities[inside]])
    return float((np.diff(edges) * missing).sum())


def _sample(passages: Sequence[Passage]) -> CensoredData:
    if not passages:
        raise ValueError("there are no runs: give the passage of at least one")
    times = np.array([passage.time for passage in passages])
    if not np.isfinite(times).all() or (times < 0).any():
        raise ValueError(f"times must be finite and not negative, got {times[~(times >= 0) | ~np.isfinite(times)][0]}")
    return CensoredData.right_censored(times, [not passage.reached for passage in passages])


def _first(times: Floats, shares: Floats) -> float | None:
    """The first time at which a share is a half."""
    (there,) = np.nonzero(shares >= 0.5 - ROUNDING)
    return float(times[there[0]]) if there.size else None
