"""What cannot be computed is refused in one line: what was wrong, what was given, what to write instead."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, cast

import numpy as np
import pytest

from sb3_pg import statistics as s
from sb3_pg.statistics import Passage

NAN = np.nan
FINE, ONE_RUN = np.arange(12.0).reshape(4, 3), np.arange(3.0)[None]
BROKEN = FINE.copy()
BROKEN[2, 1] = NAN

AGGREGATES = [s.mean, s.median, s.iqm, s.optimality_gap, lambda scores: s.performance_profile(scores, [0.0])]


@pytest.mark.parametrize("aggregate", AGGREGATES)
@pytest.mark.parametrize(
    ("scores", "message"),
    [
        (BROKEN, "scores must be finite, got nan for run 2 of task 1: leave the task out, or say what"),
        (np.full((1, 1), np.inf), "scores must be finite, got inf for run 0 of task 0"),
        (BROKEN[None], r"got nan for index \(0, 2, 1\)"),
        (np.arange(3.0), r"must have shape \(runs, tasks\), got \(3,\): one task is scores\[:, None\]"),
        (np.zeros((0, 3)), r"at least one run and one task, got shape \(0, 3\)"),
        ([[1.0], [2.0, 3.0]], "must be an array of numbers, every row as long as the others"),
        ([["high"]], "must be an array of numbers"),
    ],
)
def test_scores(aggregate: Callable[..., object], scores: object, message: str) -> None:
    refuses(lambda: aggregate(scores), message)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        # Intervals
        (lambda: s.bootstrap_interval(s.mean, ONE_RUN), "one seed allows no interval: scores has one run"),
        (lambda: s.difference_interval(s.mean, FINE, ONE_RUN), "one seed allows no interval: sample 1 has one run"),
        (lambda: s.bootstrap_interval(s.mean, BROKEN), "got nan for run 2 of task 1"),
        (lambda: s.bootstrap_interval(s.mean, FINE, level=95), "level must be a number between 0 and 1, got 95"),
        (
            lambda: s.bootstrap_interval(s.mean, FINE, method=cast(Any, "bca")),
            "must be one of 'expanded', 'percentile', got 'bca'",
        ),
        (lambda: s.bootstrap_interval(s.mean, FINE, resamples=0), "resamples must be at least 1, got 0"),
        (
            lambda: s.bootstrap_interval(np.mean, FINE),
            r"must keep the first axis of \(batch, runs, tasks\): of 1 resamp",
        ),
        (
            lambda: s.bootstrap_interval(lambda x: x.mean(axis=1), FINE),
            "the statistic gives 3 numbers, not one: ask for a bootstrap_band",
        ),
        (lambda: s.bootstrap_interval(s.mean), "there are no scores: give the interval at least one sample"),
        (
            lambda: s.bootstrap_interval(s.probability_of_improvement, FINE, FINE[:2], paired=True),
            r"pairs need the same seeds in the same order, got shapes \(4, 3\) and \(2, 3\)",
        ),
        (
            lambda: s.difference_interval(s.mean, FINE, FINE[:2], paired=True),
            "same seeds in the same order, got 4 and 2",
        ),
        (lambda: s.difference_interval(s.mean, FINE, FINE[:, :2]), "both need the same tasks, got 3 and 2"),
        # Two algorithms
        (lambda: s.probability_of_improvement(FINE, FINE[:, :2]), "both need the same tasks, got 3 and 2"),
        (lambda: s.probability_of_improvement(FINE, BROKEN), "y must be finite, got nan for run 2 of task 1"),
        (lambda: s.improvement_interval(FINE, ONE_RUN), "one seed allows no interval"),
        (lambda: s.improvement_interval(FINE[None], FINE), r"must have shape \(runs, tasks\), got \(1, 4, 3\)"),
        (lambda: s.permutation_p_value(FINE, ONE_RUN, paired=True), "same seeds in the same order, got 4 and 1 runs"),
        (lambda: s.permutation_p_value(FINE, FINE, resamples=0), "resamples must be at least 1, got 0"),
        (lambda: s.seeds_needed(FINE, FINE, power=1), "power must be a number between 0 and 1, got 1"),
        # Several algorithms
        (lambda: s.compare_pairs({}), "there are no scores: give at least one algorithm's"),
        (lambda: s.compare_pairs({"ppo": FINE}), "a comparison needs two algorithms, got ppo alone"),
        (lambda: s.compare_pairs({"ppo": FINE, "a2c": ONE_RUN}), "one seed allows no interval: a2c has one run"),
        (
            lambda: s.compare_pairs({"ppo": FINE, "a2c": BROKEN}),
            "scores of a2c must be finite, got nan for run 2 of ta",
        ),
        (lambda: s.compare_pairs({"ppo": FINE, "a2c": FINE[:, 1:]}), "need the same tasks, got ppo 3, a2c 2"),
        (lambda: s.compare_pairs({"ppo": FINE, "a2c": FINE[None]}), r"a2c must have shape \(runs, tasks\), got \(1, 4"),
        (lambda: s.compare_pairs({"a": FINE, "b": FINE}, {"c": [0]}), "seeds of c and no scores: choose from a, b"),
        (lambda: s.compare_pairs({"a": FINE, "b": FINE}, {"a": [0]}), "a has 4 runs and 1 seeds: give one for each"),
        (
            lambda: s.compare_pairs({"a": FINE, "b": FINE}, {"a": [0, 0, 1, 2]}),
            "seeds of a must differ, got 0, 0, 1, 2",
        ),
        (lambda: s.performance_profile(FINE, []), "thresholds must be one or more finite numbers"),
        (lambda: s.average_score_profile(FINE, [NAN]), "thresholds must be one or more finite numbers"),
        # Normalisations
        (lambda: s.min_max({"a": ONE_RUN}), "min-max has no scale for task 0, where every run scores 0: leave it out"),
        (lambda: s.between([0, 1], [5, 1]), "random and reference of task 1 are both 1: they must differ"),
        (lambda: s.between([0, 1], [5]), r"must have one shape \(tasks,\), got \(2,\) and \(1,\)"),
        (lambda: s.between([0], [NAN]), "random and reference must be finite"),
        (lambda: s.between([0], [1])(FINE), "the normalisation is one of 1 tasks, got scores of 3"),
    ],
)
def test_statistics(call: Callable[[], object], message: str) -> None:
    refuses(call, message)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: s.on_grid([1, 2], [1], [1]), r"must have one shape \(measurements,\), got \(2,\) and \(1,\)"),
        (lambda: s.on_grid([], [], [1]), "a curve needs at least one measurement, got none"),
        (lambda: s.on_grid([2, 1], [1, 1], [1]), "steps must be finite and ascending: sort the measurements"),
        (lambda: s.on_grid([1, 2], [1, NAN], [1]), "values must be finite, got nan at step 2: cut the run before it"),
        (lambda: s.on_grid([1, 1], [1, 2], [1]), "steps must differ for between='linear'"),
        (
            lambda: s.on_grid([1], [1], [1], between=cast(Any, "next")),
            "between must be one of 'linear', 'last', got 'next'",
        ),
        (lambda: s.on_grid([1, 2], [1, 1], [1], end=3), "end goes with between='last'"),
        (lambda: s.common_grid([]), "there are no runs to lay a grid over"),
        (lambda: s.common_grid([[0, 5], [6, 9]]), "the runs share no steps: one begins at 6, another ends at 5"),
        (lambda: s.stack_curves([], [1]), "there are no runs to stack"),
        (lambda: s.running_mean([1, 2], window=0), "a window of at least 1, got"),
        (lambda: s.area_under_curve([5], [1]), "an area needs measurements at two steps, got step 5 alone"),
        (lambda: s.final_score([1, 2], last=3), "last must be between 1 and the 2 measurements that there are, got 3"),
        (lambda: s.best_score([]), "a curve needs at least one measurement"),
        (lambda: s.curve_band([[1.0, NAN]]), "one seed allows no interval: there is one curve"),
        (lambda: s.curve_band([1.0, 2.0]), r"must have shape \(runs, points\) or \(runs, tasks, points\), got \(2,\)"),
        (lambda: s.run_spread(np.zeros((3, 2, 4))), "the spread is that of one task's runs, got 2 tasks"),
        (lambda: s.first_passage([1], [1], NAN), "a passage needs a finite threshold and a window of at least 1"),
        (lambda: s.reach_curve([Passage(3, True)]), "one seed allows no interval"),
        (lambda: s.reach_curve([]), "there are no runs: give the passage of at least one"),
        (lambda: s.median_time([Passage(NAN, True)]), "times must be finite and not negative, got nan"),
        (
            lambda: s.restricted_mean_time([Passage(5, False)], 6),
            "no run was watched after 5, so horizon must be at mo",
        ),
        (lambda: s.restricted_mean_time([Passage(5, True)], 0), "horizon must be a finite time > 0, got 0"),
    ],
)
def test_curves_and_times(call: Callable[[], object], message: str) -> None:
    refuses(call, message)


def refuses(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message) as refusal:
        call()
    assert "\n" not in str(refusal.value)
