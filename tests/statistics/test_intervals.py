"""Bootstrap intervals: exactly where the resamples can be counted, against t where it applies, and as rliable has them.

Whether they hold the true value as often as they say is shown in ``test_coverage.py``.
"""

from __future__ import annotations

from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from rliable import library
from scipy.stats import norm, t

from sb3_pg import statistics as s
from sb3_pg.statistics import intervals
from sb3_pg.statistics.checks import Floats
from sb3_pg.statistics.intervals import METHODS, Method

SCORES = np.random.default_rng(3).normal(size=(6, 4)) * [0.5, 1.0, 2.0, 4.0]
EVEN = np.linspace(-1, 1, 20)[:, None]


@pytest.mark.parametrize(("level", "low", "high"), [(0.95, 0.0, 1.0), (0.6, 0.0, 1.0), (0.4, 0.5, 0.5)])
def test_percentiles_of_two_runs(level: float, low: float, high: float) -> None:
    # The resamples' mean is 0, 1/2, 1 with probability 1/4, 1/2, 1/4
    interval = s.bootstrap_interval(s.mean, [[0.0], [1.0]], level=level, method="percentile")
    assert interval == s.Interval(0.5, low, high, level)


def test_runs_are_drawn_within_their_task() -> None:
    # Mixing the tasks would give means other than 50
    interval = s.bootstrap_interval(s.mean, [[0.0, 100.0], [0.0, 100.0]])
    assert (interval.low, interval.estimate, interval.high) == (50.0, 50.0, 50.0)


def test_tasks_are_drawn_independently_of_each_other() -> None:
    # If the same runs were drawn for both tasks, the mean would always be 1/2; so it is 0 in one of 16 resamples
    interval = s.bootstrap_interval(s.mean, [[0.0, 1.0], [1.0, 0.0]], method="percentile", level=0.9)
    assert (interval.low, interval.high) == (0.0, 1.0)


def test_of_one_task_the_mean_has_the_interval_of_students_t() -> None:
    interval = s.bootstrap_interval(s.mean, EVEN, resamples=100_000)
    margin = t.ppf(0.975, 19) * EVEN.std(ddof=1) / np.sqrt(20)
    # The resamples are not quite normal, and their quantiles have an error of 0.5%
    assert [interval.low, interval.high] == pytest.approx([-margin, margin], rel=0.02)
    percentile = s.bootstrap_interval(s.mean, EVEN, resamples=100_000, method="percentile")
    assert percentile.high == pytest.approx(norm.ppf(0.975) * EVEN.std() / np.sqrt(20), rel=0.02)


@pytest.mark.parametrize("scales", [(1.0, 1.0), (1.0, 3.0), (1.0, 0.0)])
def test_the_degrees_of_freedom_are_those_of_a_sum_of_variances(scales: tuple[float, float]) -> None:
    scores = np.linspace(-1, 1, 6)[:, None] * scales
    variances = scores.var(axis=0, ddof=1) / 6 / 4
    freedom = variances.sum() ** 2 / (variances**2 / 5).sum()
    tail = norm.cdf(t.ppf(0.025, freedom) * np.sqrt(6 / 5))
    resampled = intervals._replicates(s.mean, [[scores]], 200_000, np.random.default_rng(0))
    interval = s.bootstrap_interval(s.mean, scores, resamples=200_000, rng=1)
    # Of the variances that the degrees of freedom are made of, 200 resamples each know the tenth part
    assert interval.low == pytest.approx(np.quantile(resampled, tail), rel=0.05)


def test_samples_of_unequal_sizes_have_the_interval_of_welch() -> None:
    x, y = np.linspace(-1, 1, 16)[:, None], np.linspace(-3, 3, 8)[:, None]
    variances = np.array([x.var(ddof=1) / 16, y.var(ddof=1) / 8])
    freedom = variances.sum() ** 2 / (variances**2 / [15, 7]).sum()
    interval = s.difference_interval(s.mean, x, y, resamples=100_000)
    assert interval.high == pytest.approx(t.ppf(0.975, freedom) * np.sqrt(variances.sum()), rel=0.05)


def test_pairs_are_drawn_together() -> None:
    noise = np.random.default_rng(0).normal(size=(8, 3))
    paired = s.difference_interval(s.mean, noise + 1, noise, paired=True)
    assert [paired.low, paired.estimate, paired.high] == pytest.approx([1.0, 1.0, 1.0])
    apart = s.difference_interval(s.mean, noise + 1, noise)
    assert apart.low < 0.8 and apart.high > 1.2


def test_an_interval_of_pairs_is_that_of_their_differences() -> None:
    x, y = np.random.default_rng(1).normal(size=(2, 7, 3))
    paired = s.difference_interval(s.mean, x, y, paired=True, rng=5)
    alone = s.bootstrap_interval(s.mean, x - y, rng=5)
    assert [paired.estimate, paired.low, paired.high] == pytest.approx([alone.estimate, alone.low, alone.high])


@pytest.mark.parametrize("aggregate", [s.mean, s.median, s.iqm, s.optimality_gap])
def test_percentiles_as_in_rliable(aggregate: intervals.Statistic) -> None:
    """Two bootstraps of 4,000 and 40,000 resamples. The distance of their limits has a standard error of 0.045 standard
    deviations of the bootstrap if it is normal; one of 0.3 has a probability below 1e-5 with half again as much."""
    np.random.seed(0)  # rliable's random_state does nothing
    estimates, limits = library.get_interval_estimates(
        {"a": SCORES}, lambda scores: np.array([aggregate(scores)]), reps=4_000
    )
    ours = s.bootstrap_interval(aggregate, SCORES, method="percentile", resamples=40_000)
    deviation = intervals._replicates(aggregate, [[SCORES]], 2_000, np.random.default_rng(1)).std()
    assert ours.estimate == pytest.approx(estimates["a"][0], abs=1e-9)
    assert [ours.low, ours.high] == pytest.approx(limits["a"][:, 0], abs=0.3 * deviation)


def test_the_same_seed_gives_the_same_interval() -> None:
    first = s.bootstrap_interval(s.iqm, SCORES, rng=1)
    assert first == s.bootstrap_interval(s.iqm, SCORES, rng=1)
    assert first == s.bootstrap_interval(s.iqm, SCORES, rng=np.random.default_rng(1))
    assert first != s.bootstrap_interval(s.iqm, SCORES, rng=2)


def test_memory_is_cut_into_chunks_without_changing_the_interval(monkeypatch: pytest.MonkeyPatch) -> None:
    whole = s.bootstrap_interval(s.iqm, SCORES, resamples=1_000)
    sizes: list[int] = []

    def watched(scores: Floats) -> Floats:
        sizes.append(len(scores))
        return s.iqm(scores)

    monkeypatch.setattr(intervals, "CHUNK", 7 * SCORES.size)
    assert s.bootstrap_interval(watched, SCORES, resamples=1_000) == whole
    assert max(sizes) == 7


@pytest.mark.parametrize("method", METHODS)
@given(scale=st.floats(0.1, 10), shift=st.floats(-10, 10), seed=st.integers(0, 50))
def test_what_moves_the_scores_moves_the_interval(method: Method, scale: float, shift: float, seed: int) -> None:
    interval = partial(s.bootstrap_interval, s.iqm, method=method, resamples=300, rng=seed)
    before, after, turned = interval(SCORES), interval(scale * SCORES + shift), interval(-SCORES)
    expected = [scale * value + shift for value in (before.estimate, before.low, before.high)]
    assert [after.estimate, after.low, after.high] == pytest.approx(expected, abs=1e-9)
    assert [turned.low, turned.high] == pytest.approx([-before.high, -before.low], abs=1e-9)


@given(seed=st.integers(0, 1000), runs=st.integers(2, 6), tasks=st.integers(1, 4))
def test_bounds(seed: int, runs: int, tasks: int) -> None:
    scores = np.random.default_rng(seed).normal(size=(runs, tasks))
    interval = partial(s.bootstrap_interval, s.iqm, scores, resamples=500, rng=seed)
    narrow, wide, percentile = interval(level=0.8), interval(level=0.99), interval(level=0.8, method="percentile")
    assert scores.min() - 1e-9 <= wide.low <= narrow.low <= percentile.low
    assert percentile.high <= narrow.high <= wide.high <= scores.max() + 1e-9


def test_a_band_has_an_interval_at_each_point() -> None:
    thresholds = np.array([-9.0, -1.0, 0.0, 1.0, 9.0])
    band = s.bootstrap_band(lambda scores: s.performance_profile(scores, thresholds), SCORES, resamples=4_000, rng=2)
    assert band.estimate == pytest.approx(s.performance_profile(SCORES, thresholds))
    for point, threshold in enumerate(thresholds):
        single = s.bootstrap_interval(
            lambda scores, at=threshold: s.performance_profile(scores, [at])[:, 0], SCORES, resamples=4_000, rng=2
        )
        assert [band.low[point], band.high[point]] == pytest.approx([single.low, single.high], abs=1e-9)


def test_equal_scores_have_an_interval_of_no_width() -> None:
    assert s.bootstrap_interval(s.iqm, np.full((5, 3), 500.0)) == s.Interval(500.0, 500.0, 500.0, 0.95)
