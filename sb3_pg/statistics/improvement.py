"""The probability of improvement: its interval, a test of it, and the seeds that a claim of it would need."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike
from scipy.optimize import brentq
from scipy.stats import norm

from sb3_pg.statistics.aggregates import probability_of_improvement
from sb3_pg.statistics.checks import Floats, check_fraction, check_two
from sb3_pg.statistics.intervals import CHUNK, Interval, Method, bootstrap_interval


def improvement_interval(
    x: ArrayLike,
    y: ArrayLike,
    *,
    paired: bool = False,
    level: float = 0.95,
    method: Method = "expanded",
    resamples: int = 10_000,
    rng: int | np.random.Generator = 0,
) -> Interval:
    """The probability that x improves on y, with its bootstrap interval.

    Where every run of one is above every run of the other, so is every resample, and the bootstrap would claim to be
    certain. There the limit is that of a score interval: the probability from which such a result is as far away as the
    level allows, by the variance of Hanley & McNeil 1982 ("The meaning and use of the area under a receiver operating
    characteristic (ROC) curve") in the symmetric form of Newcombe 2006 ("Confidence intervals for an effect size
    measure based on the Mann-Whitney statistic", part 2, method 5).

    :param x: ``(runs of x, tasks)``
    :param y: ``(runs of y, tasks)``
    :param paired: row i of both has the same seed: they are drawn together
    """
    of_x, of_y = check_two(x, y, paired)
    interval = bootstrap_interval(
        probability_of_improvement, of_x, of_y, paired=paired, level=level, method=method, resamples=resamples, rng=rng
    )
    if interval.estimate not in (0.0, 1.0):
        return interval
    limit = _separation_limit(len(of_x), len(of_y), of_x.shape[1], level)
    return Interval(1.0, limit, 1.0, level) if interval.estimate == 1.0 else Interval(0.0, 0.0, 1.0 - limit, level)


def _separation_limit(n_x: int, n_y: int, n_tasks: int, level: float) -> float:
    """The p with 1 - p = z sqrt(V(p)), V(p) = p (1 - p) (1 + m ((1 - p) / (2 - p) + p / (1 + p))) / (n_x n_y tasks)
    and m = (n_x + n_y) / 2 - 1."""
    m = (n_x + n_y) / 2 - 1
    scale = float(norm.ppf((1 + level) / 2)) ** 2 / (n_x * n_y * n_tasks)

    def excess(p: float) -> float:  # both sides squared and divided by 1 - p
        return 1 - p - scale * p * (1 + m * ((1 - p) / (2 - p) + p / (1 + p)))

    return float(brentq(excess, 0.0, 1.0))


def permutation_p_value(
    x: ArrayLike,
    y: ArrayLike,
    *,
    paired: bool = False,
    resamples: int = 10_000,
    rng: int | np.random.Generator = 0,
) -> float:
    """How often a probability of improvement as far from 1/2 would come from two algorithms that do not differ.

    The scores of each task are shuffled among the runs of both; those of a pair only change places. So the test holds
    its level however few runs there are, and from few it can show nothing: n pairs on one task give at least
    2^(1 - n). The scores as they are count as one of the shuffles (Phipson & Smyth 2010, "Permutation p-values should
    never be zero").

    :param x: ``(runs of x, tasks)``
    :param y: ``(runs of y, tasks)``
    :param paired: row i of both has the same seed
    :return: two-sided, in (0, 1], not corrected for other comparisons
    """
    of_x, of_y = check_two(x, y, paired)
    if resamples < 1:
        raise ValueError(f"resamples must be at least 1, got {resamples}")
    generator = np.random.default_rng(rng)
    # Two shuffles that are worth the same may differ by rounding
    observed = abs(float(probability_of_improvement(of_x, of_y)) - 0.5) - 1e-12
    rows = max(1, CHUNK // (of_x.size + of_y.size))
    as_far = 0
    for start in range(0, resamples, rows):
        shuffled = (_swapped if paired else _shuffled)(of_x, of_y, min(rows, resamples - start), generator)
        as_far += int((np.abs(probability_of_improvement(*shuffled) - 0.5) >= observed).sum())
    return (1 + as_far) / (1 + resamples)


def _swapped(x: Floats, y: Floats, size: int, rng: np.random.Generator) -> tuple[Floats, Floats]:
    swap = rng.random((size, *x.shape)) < 0.5
    return np.where(swap, y, x), np.where(swap, x, y)


def _shuffled(x: Floats, y: Floats, size: int, rng: np.random.Generator) -> tuple[Floats, Floats]:
    both = np.concatenate([x, y])
    shuffled = np.take_along_axis(both[None], rng.random((size, *both.shape)).argsort(axis=1), axis=1)
    return shuffled[:, : len(x)], shuffled[:, len(x) :]


def seeds_needed(x: ArrayLike, y: ArrayLike, power: float = 0.8, level: float = 0.05) -> int | None:
    """Seeds of each algorithm from which a difference as large as the one measured would be shown with this power.

    n = (z_(level / 2) + z_(1 - power))^2 / (6 tasks (p - 1/2)^2) for a probability of improvement p (Noether 1987,
    "Sample size determination for some common nonparametric tests", with groups of one size, and a mean over tasks). It
    takes p for the truth: from few seeds it is a guess, and too hopeful where x was picked because it looked good.

    :param x: ``(runs of x, tasks)``; one run is enough
    :param y: ``(runs of y, tasks)``
    :param level: of a two-sided test; divide it by the number of pairs that are compared
    :return: None where p is 1/2: no number of seeds would show it
    """
    check_fraction(power, "power")
    check_fraction(level, "level")
    of_x, of_y = check_two(x, y)
    distance = float(probability_of_improvement(of_x, of_y)) - 0.5
    if abs(distance) < 1e-12:
        return None
    n_tasks: int = of_x.shape[1]
    z = float(norm.ppf(1 - level / 2) + norm.ppf(power))
    return max(2, math.ceil(z**2 / (6 * n_tasks * distance**2)))
