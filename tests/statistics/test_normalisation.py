"""Normalisations: what 0 and 1 are."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sb3_pg import statistics as s

A, B = np.array([[0.0, -100.0], [5.0, -300.0]]), np.array([[10.0, -500.0]])


def test_min_max_by_hand() -> None:
    scale = s.min_max({"a": A, "b": B})
    assert scale.name == "min-max over all runs"
    assert scale(A) == pytest.approx(np.array([[0, 1], [0.5, 0.5]]))
    assert scale(B) == pytest.approx(np.array([[1, 0]]))


def test_between_by_hand() -> None:
    scale = s.between(random=[0, -500], reference=[10, -100])
    assert scale.name == "random 0, reference 1"
    assert scale([[5.0, -600.0], [20.0, -100.0]]) == pytest.approx(np.array([[0.5, -0.25], [2, 1]]))
    # A reference may be below random, where less is better
    assert s.between([10], [0])([[2.0]]) == pytest.approx(0.8)


def test_none_leaves_scores_as_they_are() -> None:
    scale = s.no_normalisation(2)
    assert scale.name == "none" and np.array_equal(scale(A), A)


def test_axes_in_front_are_kept() -> None:
    scale = s.between([0, 1], [2, 3])
    batch = np.random.default_rng(0).normal(size=(3, 4, 2))
    assert scale(batch) == pytest.approx(np.stack([scale(scores) for scores in batch]))


@given(st.integers(0, 200))
def test_min_max_reaches_zero_and_one_and_keeps_the_order(seed: int) -> None:
    x, y = np.random.default_rng(seed).normal(size=(2, 3, 4)) * [1, 10, 100, 1000]
    scale = s.min_max({"x": x, "y": y})
    both = np.concatenate([scale(x), scale(y)])
    assert both.min(axis=0) == pytest.approx(np.zeros(4)) and both.max(axis=0) == pytest.approx(np.ones(4))
    assert s.probability_of_improvement(scale(x), scale(y)) == s.probability_of_improvement(x, y)
