"""Which of several algorithms is better, as far as the runs show it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from itertools import combinations

import numpy as np
from numpy.typing import ArrayLike

from sb3_pg.statistics.aggregates import iqm, mean
from sb3_pg.statistics.checks import Floats, check_algorithms, check_fraction
from sb3_pg.statistics.improvement import improvement_interval, permutation_p_value, seeds_needed
from sb3_pg.statistics.intervals import Interval, Statistic, difference_interval

#: With fewer seeds than these a result is an anecdote: warn.
FEW_SEEDS = 5


class Verdict(str, Enum):
    """What the runs show of x against y."""

    BETTER = "better"
    WORSE = "worse"
    NOT_SHOWN = "not shown"


@dataclass(frozen=True)
class Comparison:
    """One algorithm against another. Intervals and p-value are corrected for the number of pairs.

    :param x: the one
    :param y: the other
    :param n_runs: of x and of y, per task
    :param paired: whether row i of both was the same seed
    :param improvement: probability that a run of x scores higher than one of y on the same task
    :param mean_difference: mean of x less mean of y
    :param iqm_difference: interquartile mean of x less that of y
    :param p_value: of the permutation test
    :param verdict: of x
    :param seeds_needed: of each, to show a difference as large as this one with a power of 80%; None if there is none
    """

    x: str
    y: str
    n_runs: tuple[int, int]
    paired: bool
    improvement: Interval
    mean_difference: Interval
    iqm_difference: Interval
    p_value: float
    verdict: Verdict
    seeds_needed: int | None

    @property
    def few_seeds(self) -> bool:
        """Whether there are too few for a claim."""
        return min(self.n_runs) < FEW_SEEDS


def compare_pairs(
    scores: Mapping[str, ArrayLike],
    seeds: Mapping[str, Sequence[int]] | None = None,
    *,
    level: float = 0.95,
    resamples: int = 10_000,
    rng: int | np.random.Generator = 0,
) -> list[Comparison]:
    """Every algorithm against every other one.

    With m pairs each interval has the level 1 - (1 - level) / m and each p-value is multiplied by m (Bonferroni): all
    intervals hold at once with probability ``level``, and whoever looks at one sees why the verdict is what it is.
    Holm's steps would reject a little more, but no intervals go with them that say the same.

    A verdict needs both, the interval of the probability of improvement beside 1/2 and the permutation test: bootstrap
    intervals of few runs are approximate, while the test is exact, but says nothing of how much.

    :param scores: ``(runs, tasks)`` of each algorithm, normalised if the differences of means are to make sense
    :param seeds: of the rows of each algorithm; two algorithms with the same ones are paired. None: nothing is paired
    :param level: of all intervals together
    :return: one for each pair, in the order of ``scores``
    """
    check_fraction(level, "level")
    arrays = check_algorithms(scores)
    if len(arrays) < 2:
        raise ValueError(f"a comparison needs two algorithms, got {', '.join(arrays)} alone")
    for name, array in arrays.items():
        if len(array) < 2:
            raise ValueError(f"one seed allows no interval: {name} has one run, give at least two")
    seeds = _check_seeds(arrays, seeds)
    pairs = list(combinations(arrays, 2))
    generator = np.random.default_rng(rng)
    return [
        _compare(names, *_aligned(names, arrays, seeds), len(pairs), level, resamples, generator) for names in pairs
    ]


def _check_seeds(arrays: Mapping[str, Floats], seeds: Mapping[str, Sequence[int]] | None) -> dict[str, list[int]]:
    checked = {name: list(of_one) for name, of_one in (seeds or {}).items()}
    for name, of_one in checked.items():
        if name not in arrays:
            raise ValueError(f"there are seeds of {name} and no scores: choose from {', '.join(arrays)}")
        if len(of_one) != len(arrays[name]):
            raise ValueError(f"{name} has {len(arrays[name])} runs and {len(of_one)} seeds: give one for each run")
        if len(set(of_one)) < len(of_one):
            raise ValueError(f"the seeds of {name} must differ, got {', '.join(map(str, of_one))}")
    return checked


def _aligned(
    names: tuple[str, str], arrays: Mapping[str, Floats], seeds: Mapping[str, list[int]]
) -> tuple[Floats, Floats, bool]:
    """The scores of two algorithms, the rows of the second in the order of the first's where both have its seeds."""
    x, y = (arrays[name] for name in names)
    of_x, of_y = (seeds.get(name, []) for name in names)
    if not of_x or set(of_x) != set(of_y):
        return x, y, False
    return x, y[[of_y.index(seed) for seed in of_x]], True


def _compare(
    names: tuple[str, str],
    x: Floats,
    y: Floats,
    paired: bool,
    n_pairs: int,
    level: float,
    resamples: int,
    rng: np.random.Generator,
) -> Comparison:
    simultaneous = 1 - (1 - level) / n_pairs

    def difference(statistic: Statistic) -> Interval:
        return difference_interval(statistic, x, y, paired=paired, level=simultaneous, resamples=resamples, rng=rng)

    improvement = improvement_interval(x, y, paired=paired, level=simultaneous, resamples=resamples, rng=rng)
    p_value = min(1.0, n_pairs * permutation_p_value(x, y, paired=paired, resamples=resamples, rng=rng))
    return Comparison(
        x=names[0],
        y=names[1],
        n_runs=(len(x), len(y)),
        paired=paired,
        improvement=improvement,
        mean_difference=difference(mean),
        iqm_difference=difference(iqm),
        p_value=p_value,
        verdict=_verdict(improvement, p_value, level),
        seeds_needed=seeds_needed(x, y, level=1 - simultaneous),
    )


def _verdict(improvement: Interval, p_value: float, level: float) -> Verdict:
    if p_value <= 1 - level and improvement.low > 0.5:
        return Verdict.BETTER
    if p_value <= 1 - level and improvement.high < 0.5:
        return Verdict.WORSE
    return Verdict.NOT_SHOWN
