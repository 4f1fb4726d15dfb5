"""One number for the scores of an algorithm, or of two (Agarwal et al. 2021, "Deep reinforcement learning at the edge
of the statistical precipice"; their package rliable computes the same).

Every function takes scores ``(..., runs, tasks)`` and keeps the axes in front: they hold the resamples of a bootstrap.
Scores of different tasks go into one number as they are; see :mod:`sb3_pg.statistics.normalisation`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from sb3_pg.statistics.checks import Floats, as_floats, check_same_tasks, check_scores


def mean(scores: ArrayLike) -> Floats:
    """Mean of the tasks' mean scores.

    :param scores: ``(..., runs, tasks)``
    :return: ``(...)``
    """
    of_all: Floats = check_scores(scores).mean(axis=(-2, -1))
    return of_all


def median(scores: ArrayLike) -> Floats:
    """Median over the tasks of their mean scores: half of the tasks may go as badly as they like.

    :param scores: ``(..., runs, tasks)``
    :return: ``(...)``
    """
    of_tasks: Floats = np.median(check_scores(scores).mean(axis=-2), axis=-1)
    return of_tasks


def iqm(scores: ArrayLike) -> Floats:
    """Interquartile mean: what is left of all runs of all tasks without the lowest and the highest quarter.

    Of N scores floor(N / 4) are cut at either end, so with three or fewer it is the mean.

    :param scores: ``(..., runs, tasks)``
    :return: ``(...)``
    """
    array = check_scores(scores)
    # scipy.stats.trim_mean does the same; of a bootstrap's many short rows, sorting takes a tenth of its time
    ordered = np.sort(array.reshape(*array.shape[:-2], -1), axis=-1)
    cut = ordered.shape[-1] // 4
    middle: Floats = ordered[..., cut : ordered.shape[-1] - cut].mean(axis=-1)
    return middle


def optimality_gap(scores: ArrayLike, target: float = 1.0) -> Floats:
    """How much is missing to the target on average, where a score above the target counts as the target.

    :param scores: ``(..., runs, tasks)``
    :param target: rliable's gamma
    :return: ``(...)``, not negative
    """
    gap: Floats = target - np.minimum(check_scores(scores), target).mean(axis=(-2, -1))
    return gap


def performance_profile(scores: ArrayLike, thresholds: ArrayLike) -> Floats:
    """Share of runs whose score is above each threshold, averaged over the tasks (rliable's score distribution).

    :param scores: ``(..., runs, tasks)``
    :param thresholds: ``(thresholds,)``
    :return: ``(..., thresholds)``, never rising along the thresholds
    """
    array = check_scores(scores)
    return np.stack([(array > threshold).mean(axis=(-2, -1)) for threshold in _thresholds(thresholds)], axis=-1)


def average_score_profile(scores: ArrayLike, thresholds: ArrayLike) -> Floats:
    """Share of tasks whose mean score is above each threshold (rliable's average score distribution).

    :param scores: ``(..., runs, tasks)``
    :param thresholds: ``(thresholds,)``
    :return: ``(..., thresholds)``, never rising along the thresholds
    """
    of_tasks = check_scores(scores).mean(axis=-2)
    return np.stack([(of_tasks > threshold).mean(axis=-1) for threshold in _thresholds(thresholds)], axis=-1)


def _thresholds(thresholds: ArrayLike) -> Floats:
    array = as_floats(thresholds, "thresholds")
    if array.ndim != 1 or array.size == 0 or not np.isfinite(array).all():
        raise ValueError(f"thresholds must be one or more finite numbers in a row, got {thresholds!r}")
    return array


def probability_of_improvement(x: ArrayLike, y: ArrayLike) -> Floats:
    """How probable it is that a run of x scores higher than a run of y on the same task: P(X > Y) + P(X = Y) / 2.

    The mean over the tasks of the Mann-Whitney statistic U / (runs of x * runs of y).

    :param x: ``(..., runs of x, tasks)``
    :param y: ``(..., runs of y, tasks)``
    :return: ``(...)``, in [0, 1]
    """
    x, y = check_scores(x, "x"), check_scores(y, "y")
    check_same_tasks(x, y)
    # Run by run, so that the resamples of a bootstrap need no array of all pairs
    won = np.zeros(np.broadcast_shapes(x[..., 0, :].shape, y[..., 0, :].shape))
    for run in range(x.shape[-2]):
        of_run = x[..., [run], :]
        won += ((of_run > y).mean(axis=-2) + (of_run >= y).mean(axis=-2)) / 2
    share: Floats = won.mean(axis=-1) / x.shape[-2]
    return share
