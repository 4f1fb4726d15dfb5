"""The probability of improvement: its interval, its test against all permutations, the seeds that a claim needs."""

from __future__ import annotations

from itertools import combinations, product

import numpy as np
import pytest
from scipy.stats import binom, mannwhitneyu, norm

from sb3_pg import statistics as s
from sb3_pg.statistics.checks import Floats

LOW, HIGH = np.arange(5.0)[:, None], np.arange(10.0, 15.0)[:, None]


@pytest.mark.parametrize(("n_x", "n_y", "n_tasks", "level"), [(5, 5, 1, 0.95), (4, 9, 3, 0.9), (10, 10, 5, 0.99)])
def test_the_limit_where_every_run_is_better(n_x: int, n_y: int, n_tasks: int, level: float) -> None:
    """It solves 1 - p = z sd(p), with Hanley and McNeil's variance, and the mean of n_x - 1 and n_y - 1 for both."""
    x, y = np.full((n_x, n_tasks), 2.0), np.full((n_y, n_tasks), 1.0)
    interval = s.improvement_interval(x, y, level=level)
    p, mean = interval.low, (n_x + n_y) / 2 - 1
    q1, q2 = p / (2 - p), 2 * p**2 / (1 + p)
    variance = (p * (1 - p) + mean * (q1 - p**2) + mean * (q2 - p**2)) / (n_x * n_y * n_tasks)
    assert (interval.estimate, interval.high, interval.level) == (1.0, 1.0, level)
    assert 0 < p < 1 and 1 - p == pytest.approx(norm.ppf((1 + level) / 2) * np.sqrt(variance), abs=1e-9)
    back = s.improvement_interval(y, x, level=level)
    assert [back.estimate, back.low, back.high] == pytest.approx([0.0, 0.0, 1 - p])


def test_more_runs_and_more_tasks_bring_it_nearer_to_one() -> None:
    lows = [s.improvement_interval(np.ones(shape), np.zeros(shape)).low for shape in [(3, 1), (5, 1), (5, 4), (20, 4)]]
    assert lows == sorted(lows)


@pytest.mark.parametrize("paired", [False, True])
def test_an_interval_that_overlaps_is_the_bootstraps(paired: bool) -> None:
    x, y = np.random.default_rng(0).normal(size=(2, 8, 3))
    ours = s.improvement_interval(x + 0.5, y, paired=paired, rng=4)
    assert ours == s.bootstrap_interval(s.probability_of_improvement, x + 0.5, y, paired=paired, rng=4)
    assert 0 <= ours.low < ours.estimate < ours.high <= 1


def exact_p_value(x: Floats, y: Floats, paired: bool) -> float:
    """The share of all relabellings of one task that are as far from 1/2."""
    both, n = np.concatenate([x, y])[:, 0], len(x)
    if paired:
        choices = [[i + n * swap for i, swap in enumerate(swaps)] for swaps in product([0, 1], repeat=n)]
    else:
        choices = [list(chosen) for chosen in combinations(range(len(both)), n)]
    distances = [
        abs(s.probability_of_improvement(both[of_x][:, None], np.delete(both, of_x)[:, None]) - 0.5) for of_x in choices
    ]
    observed = abs(s.probability_of_improvement(x, y) - 0.5)
    return float(np.mean(np.array(distances) >= observed - 1e-12))


@pytest.mark.parametrize("paired", [False, True])
@pytest.mark.parametrize("seed", [1, 2, 3])
def test_the_permutation_test_agrees_with_all_permutations(paired: bool, seed: int) -> None:
    """20,000 shuffles: a distance of 5 standard errors has a probability of 6e-7, in each of six tests."""
    x, y = np.random.default_rng(seed).integers(0, 6, size=(2, 5, 1)).astype(float)
    exact = exact_p_value(x + seed, y, paired)
    ours = s.permutation_p_value(x + seed, y, paired=paired, resamples=20_000)
    assert ours == pytest.approx(exact, abs=5 * np.sqrt(exact * (1 - exact) / 20_000) + 1e-4)


def test_few_pairs_cannot_show_anything() -> None:
    # All five are better: of 32 ways to swap, two are as far from 1/2
    assert s.permutation_p_value(HIGH, LOW, paired=True) == pytest.approx(2 / 32, abs=0.015)
    # Unpaired, two of 252
    assert s.permutation_p_value(HIGH, LOW) == pytest.approx(2 / 252, abs=0.005)
    assert s.permutation_p_value(HIGH, HIGH) == 1.0


@pytest.mark.parametrize("paired", [False, True])
@pytest.mark.parametrize("shape", [(5, 1), (5, 4)])
def test_the_permutation_test_holds_its_level(paired: bool, shape: tuple[int, int]) -> None:
    """Of 600 data sets without a difference at most 5% are called different, but for a chance of 1e-7 in each of four
    tests. Pairs have an effect of their seed in common."""
    rng = np.random.default_rng(0)
    n_false = 0
    for _ in range(600):
        x, y = rng.exponential(size=(2, *shape)) + paired * rng.normal(size=shape)
        n_false += s.permutation_p_value(x, y, paired=paired, resamples=99, rng=rng) <= 0.05
    assert n_false <= binom.isf(1e-7, 600, 0.05)


def with_probability(p: float, runs: int, tasks: int) -> tuple[Floats, Floats]:
    """Scores of which exactly a share p of the pairs is won: x has runs above and below all of y."""
    x = np.where(np.arange(runs) < round(p * runs), 1.0, -1.0)
    return np.tile(x[:, None], tasks), np.zeros((runs, tasks))


@pytest.mark.parametrize(
    ("p", "tasks", "expected"),
    [
        (1.0, 1, 6),  # (1.960 + 0.842)^2 / (6 / 4) = 5.23
        (0.75, 1, 21),  # 7.849 / (6 / 16) = 20.93
        (0.25, 1, 21),
        (0.75, 5, 5),  # 20.93 / 5 = 4.19
        (0.55, 1, 524),  # 7.849 / (6 / 400) = 523.3
        (0.5, 1, None),
    ],
)
def test_seeds_needed_by_hand(p: float, tasks: int, expected: int | None) -> None:
    assert s.seeds_needed(*with_probability(p, 20, tasks)) == expected


def test_more_power_and_a_stricter_level_need_more_seeds() -> None:
    x, y = with_probability(0.75, 20, 1)
    assert s.seeds_needed(x, y, power=0.9) == 29  # (1.960 + 1.282)^2 * 16 / 6 = 28.02
    assert s.seeds_needed(x, y, level=0.05 / 3) == 28  # (2.394 + 0.842)^2 * 16 / 6 = 27.92


@pytest.mark.parametrize("p", [0.65, 0.75, 0.85])
def test_the_seeds_needed_give_the_power(p: float) -> None:
    """Noether's formula asks for somewhat too many where p is high. With 4,000 data sets the power is known to 0.0063:
    if it is 0.79 or more, or 0.90 or less, a verdict against it has a probability below 1e-6."""
    n = s.seeds_needed(*with_probability(p, 20, 1))
    assert n is not None
    x, y = np.random.default_rng(0).normal(size=(2, 4_000, n))
    p_values = mannwhitneyu(x + np.sqrt(2) * norm.ppf(p), y, axis=1, method="asymptotic").pvalue
    assert 0.79 - 5 * 0.0063 < (p_values < 0.05).mean() < 0.90 + 5 * 0.0063
