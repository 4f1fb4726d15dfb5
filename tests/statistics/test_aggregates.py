"""Aggregates: by hand, as rliable has them, and what holds for any scores."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from rliable import library, metrics

from sb3_pg import statistics as s
from sb3_pg.statistics.checks import Floats

Aggregate = Callable[[Floats], Floats]

#: Three runs of three tasks, whose means are 2, 30 and 5.
SCORES = np.array([[0.0, 10.0, 5.0], [2.0, 20.0, 5.0], [4.0, 60.0, 5.0]])

AGGREGATES = {"mean": s.mean, "median": s.median, "iqm": s.iqm, "optimality_gap": s.optimality_gap}


def a_matrix(min_runs: int = 1) -> st.SearchStrategy[Floats]:
    """Scores in steps of 1/8, so that sums are exact and some of them are equal."""
    shapes = st.tuples(st.integers(min_runs, 7), st.integers(1, 5))
    return shapes.flatmap(lambda shape: arrays(np.int64, shape, elements=st.integers(-40, 40))).map(lambda n: n / 8)


@pytest.mark.parametrize(
    ("aggregate", "expected"),
    [
        (s.mean, 37 / 3),
        (s.median, 5.0),
        (s.iqm, 5.8),  # 9 scores, two cut at either end: 4, 5, 5, 5, 10
        (lambda scores: s.optimality_gap(scores, target=10.0), 10 - 51 / 9),
    ],
)
def test_by_hand(aggregate: Aggregate, expected: float) -> None:
    assert aggregate(SCORES) == pytest.approx(expected, abs=1e-12)


def test_profiles_by_hand() -> None:
    thresholds = [-1.0, 0.0, 5.0, 60.0]
    assert s.performance_profile(SCORES, thresholds) == pytest.approx([1, 8 / 9, 3 / 9, 0])
    assert s.average_score_profile(SCORES, thresholds) == pytest.approx([1, 1, 1 / 3, 0])


def test_iqm_of_three_scores_cuts_none() -> None:
    assert s.iqm([[0.0], [1.0], [8.0]]) == pytest.approx(3.0)
    assert s.iqm([[0.0], [1.0], [2.0], [9.0]]) == pytest.approx(1.5)


def test_probability_of_improvement_by_hand() -> None:
    # 1 < 2, 1 < 3, 3 > 2, 3 = 3: one and a half of four; the other task is a draw
    x, y = np.array([[1.0, 7.0], [3.0, 7.0]]), np.array([[2.0, 7.0], [3.0, 7.0]])
    assert s.probability_of_improvement(x[:, :1], y[:, :1]) == pytest.approx(0.375)
    assert s.probability_of_improvement(x, y) == pytest.approx((0.375 + 0.5) / 2)


def test_probability_of_improvement_of_unequal_numbers_of_runs() -> None:
    assert s.probability_of_improvement([[1.0], [4.0], [6.0]], [[2.0], [5.0]]) == pytest.approx(3 / 6)


@given(a_matrix(), st.floats(-3, 3))
def test_as_in_rliable(scores: Floats, target: float) -> None:
    assert s.mean(scores) == pytest.approx(metrics.aggregate_mean(scores), abs=1e-9)
    assert s.median(scores) == pytest.approx(metrics.aggregate_median(scores), abs=1e-9)
    assert s.iqm(scores) == pytest.approx(metrics.aggregate_iqm(scores), abs=1e-9)
    gap = metrics.aggregate_optimality_gap(scores, gamma=target)
    assert s.optimality_gap(scores, target) == pytest.approx(gap, abs=1e-9)


@given(a_matrix())
def test_profiles_as_in_rliable(scores: Floats) -> None:
    thresholds = np.linspace(-5.5, 5.5, 23)
    profile = library.score_distributions(scores, thresholds)
    assert s.performance_profile(scores, thresholds) == pytest.approx(profile, abs=1e-9)
    profile = library.average_score_distributions(scores, thresholds)
    assert s.average_score_profile(scores, thresholds) == pytest.approx(profile, abs=1e-9)


@given(st.data())
def test_probability_of_improvement_as_in_rliable(data: st.DataObject) -> None:
    x = data.draw(a_matrix())
    y = data.draw(arrays(np.int64, (data.draw(st.integers(1, 7)), x.shape[1]), elements=st.integers(-40, 40))) / 8
    expected = metrics.probability_of_improvement(x, y)
    assert s.probability_of_improvement(x, y) == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("name", AGGREGATES)
@given(scores=a_matrix(), seed=st.integers(0, 100))
def test_the_order_of_runs_and_of_tasks_does_not_matter(name: str, scores: Floats, seed: int) -> None:
    rng = np.random.default_rng(seed)
    mixed = rng.permutation(rng.permuted(scores, axis=0), axis=1)  # each task's runs in an order of their own
    assert AGGREGATES[name](mixed) == pytest.approx(AGGREGATES[name](scores), abs=1e-9)


@pytest.mark.parametrize("name", ["mean", "median", "iqm"])
@given(scores=a_matrix(), scale=st.floats(-4, 4), shift=st.floats(-50, 50))
def test_what_scales_the_scores_scales_the_aggregate(name: str, scores: Floats, scale: float, shift: float) -> None:
    moved = AGGREGATES[name](scale * scores + shift)
    assert moved == pytest.approx(scale * AGGREGATES[name](scores) + shift, abs=1e-9)


@pytest.mark.parametrize("name", ["mean", "median", "iqm"])
@given(scores=a_matrix())
def test_an_aggregate_lies_between_the_scores(name: str, scores: Floats) -> None:
    assert scores.min() - 1e-9 <= AGGREGATES[name](scores) <= scores.max() + 1e-9


@given(a_matrix(), st.floats(-4, 4))
def test_the_optimality_gap_shrinks_as_scores_rise(scores: Floats, target: float) -> None:
    gap = s.optimality_gap(scores, target)
    assert -1e-9 <= s.optimality_gap(scores + 0.5, target) <= gap + 1e-9
    assert s.optimality_gap(np.maximum(scores, target), target) == pytest.approx(0, abs=1e-9)


@given(a_matrix())
def test_profiles_fall_from_one_to_zero(scores: Floats) -> None:
    thresholds = np.linspace(scores.min() - 1, scores.max(), 9)
    for profile in (s.performance_profile(scores, thresholds), s.average_score_profile(scores, thresholds)):
        assert profile[0] == 1 and profile[-1] == 0
        assert (np.diff(profile) <= 0).all()


@given(a_matrix(), st.integers(0, 100))
def test_the_probabilities_of_improvement_of_two_add_up_to_one(x: Floats, seed: int) -> None:
    y = np.random.default_rng(seed).integers(-40, 40, size=(3, x.shape[1])) / 8
    forth, back = s.probability_of_improvement(x, y), s.probability_of_improvement(y, x)
    assert 0 <= forth <= 1
    assert forth + back == pytest.approx(1, abs=1e-9)
    assert s.probability_of_improvement(x, x) == pytest.approx(0.5, abs=1e-9)
    # only the order counts
    assert s.probability_of_improvement(np.exp(x), np.exp(y)) == pytest.approx(forth, abs=1e-9)


@pytest.mark.parametrize("name", AGGREGATES)
def test_axes_in_front_are_kept(name: str) -> None:
    batch = np.random.default_rng(0).normal(size=(2, 4, 6, 3))
    single = [[AGGREGATES[name](scores) for scores in row] for row in batch]
    assert AGGREGATES[name](batch) == pytest.approx(np.array(single), abs=1e-12)


def test_axes_in_front_are_kept_by_profiles_and_pairs() -> None:
    batch, other = np.random.default_rng(1).normal(size=(2, 4, 6, 3))
    profiles = s.performance_profile(batch, [0.0, 1.0])
    assert profiles == pytest.approx(np.array([s.performance_profile(scores, [0.0, 1.0]) for scores in batch]))
    pairs = [s.probability_of_improvement(x, y) for x, y in zip(batch, other[:, :4], strict=True)]
    assert s.probability_of_improvement(batch, other[:, :4]) == pytest.approx(np.array(pairs))
