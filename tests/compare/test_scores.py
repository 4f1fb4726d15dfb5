"""One number a run, worked out by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from sb3_pg.compare.curves import AXES, learning_curves, logged_curves, times
from sb3_pg.compare.scores import METRICS, score, scores_of
from tests.compare.conftest import MakeRecord


@pytest.mark.parametrize(
    ("metric", "expected"),
    # evaluations 0, 30, 20 at steps 0, 500, 1000; training episodes 29 and 19
    [("final", 20.0), ("best", 30.0), ("area", (15.0 + 25.0) / 2), ("training", 24.0)],
)
def test_each_metric_is_what_it_says(record: MakeRecord, metric: str, expected: float) -> None:
    assert metric in METRICS
    assert score(record("ppo", "CartPole-v1", 0, [0, 30, 20]), metric) == pytest.approx(expected)


@pytest.mark.parametrize("metric", METRICS)
def test_a_run_that_failed_has_no_score_whatever_it_reached_before(record: MakeRecord, metric: str) -> None:
    assert math.isnan(score(record("ppo", "CartPole-v1", 0, [0, 30, 20], error="ValueError: broke"), metric))


@pytest.mark.parametrize("metric", METRICS)
def test_a_run_without_what_a_metric_needs_has_none(record: MakeRecord, metric: str) -> None:
    assert math.isnan(score(record("ppo", "CartPole-v1", 0, [], episodes=None), metric))


def test_another_metric_is_refused(record: MakeRecord) -> None:
    with pytest.raises(ValueError, match="no metric 'mean': write one of final, best"):
        score(record("ppo", "CartPole-v1", 0, [1]), "mean")


def test_rows_are_the_seeds_that_every_environment_has(record: MakeRecord) -> None:
    runs = [record("ppo", "A-v0", seed, [0, 0, 10 + seed]) for seed in (2, 0, 1)]
    runs += [record("ppo", "B-v0", seed, [0, 0, 20 + seed]) for seed in (3, 2, 0)]
    scores = scores_of(runs, "final")
    assert scores.seeds("ppo") == (0, 2)
    np.testing.assert_array_equal(scores.matrix("ppo"), [[10, 20], [12, 22]])
    np.testing.assert_array_equal(scores.of("ppo", "A-v0"), [10, 11, 12])


def test_a_run_without_a_seed_gets_a_number_that_none_has(record: MakeRecord) -> None:
    runs = [record("ppo", "A-v0", seed, [0, 0, level]) for seed, level in ((None, 1.0), (4, 2.0), (None, 3.0))]
    assert scores_of(runs, "final").values["ppo", "A-v0"] == {4: 2.0, 5: 1.0, 6: 3.0}


def test_a_run_that_failed_counts_with_the_lowest_score_of_any_run_on_its_task(record: MakeRecord) -> None:
    runs = [record("ppo", "A-v0", 0, [0, 0, 5]), record("ppo", "A-v0", 1, [0, 0, 50], error="broke")]
    runs += [record("a2c", "A-v0", 0, [0, 0, 3]), record("a2c", "A-v0", 1, [0, 0, math.nan])]
    scores = scores_of(runs, "final")
    assert scores.failed() == [("ppo", "A-v0", 1), ("a2c", "A-v0", 1)]
    filled = scores.counting_failures()
    assert filled.values["ppo", "A-v0"] == {0: 5.0, 1: 3.0}
    assert filled.values["a2c", "A-v0"] == {0: 3.0, 1: 3.0}


@pytest.mark.parametrize(
    ("axis", "expected"),
    # the logger's rows: 250 steps, 1 s, 10 updates; 1000 steps, 4 s, 40 updates
    [("steps", [0, 500, 1000]), ("seconds", [0, 2, 4]), ("updates", [0, 20, 40])],
)
def test_evaluations_lie_on_a_line_between_the_rows_of_the_logger(
    record: MakeRecord, axis: str, expected: list[float]
) -> None:
    assert axis in AXES
    when = times(record("ppo", "A-v0", 0, [0, 1, 2]), axis)
    assert when is not None
    np.testing.assert_allclose(when, expected)


def test_what_a_cell_has_noted_itself_comes_first(record: MakeRecord) -> None:
    notes = {"steps": [0, 500, 1000], "train_seconds": [0.0, 1.0, 3.0], "gradient_steps": [0, 7, None]}
    cell = record("ppo", "A-v0", 0, [0, 1, 2], facts={"evaluations": notes})
    for axis, expected in (("seconds", [0, 1, 3]), ("updates", [0, 20, 40])):
        when = times(cell, axis)
        assert when is not None
        np.testing.assert_allclose(when, expected)


def test_a_run_that_does_not_say_when_it_was_evaluated_is_in_no_curve_over_time(record: MakeRecord) -> None:
    assert times(record("ppo", "A-v0", 0, [0, 1, 2], progress={}), "seconds") is None
    assert learning_curves([record("ppo", "A-v0", 0, [0, 1, 2], progress={})], "seconds") == []


def test_a_curve_is_the_mean_and_its_spread_the_runs(record: MakeRecord) -> None:
    (curve,) = learning_curves([record("ppo", "A-v0", seed, [seed, 10 * seed, 4]) for seed in range(3)])
    np.testing.assert_allclose(curve.mean, [1, 10, 4])
    np.testing.assert_allclose(curve.spread.lowest, [0, 0, 4])
    np.testing.assert_allclose(curve.spread.highest, [2, 20, 4])
    assert curve.band is not None
    assert (curve.band.low[:2] < curve.mean[:2]).all()
    assert curve.n_runs == 3


def test_one_run_is_a_curve_without_a_band(record: MakeRecord) -> None:
    (curve,) = learning_curves([record("ppo", "A-v0", 0, [1, 2, 3])])
    assert curve.band is None
    np.testing.assert_allclose(curve.mean, [1, 2, 3])


@pytest.mark.parametrize("broken", [[1, math.nan, 3], [1]])
def test_a_run_that_breaks_off_ends_the_curve(record: MakeRecord, broken: list[float]) -> None:
    (curve,) = learning_curves([record("ppo", "A-v0", 0, broken), record("ppo", "A-v0", 1, [1, 2, 3])])
    np.testing.assert_array_equal(curve.x, [0, 500, 1000])
    np.testing.assert_array_equal(curve.mean, [1, math.nan, math.nan])


def test_runs_that_overshot_are_compared_at_equal_steps(record: MakeRecord) -> None:
    """The last evaluation is after the last update, wherever that was: between two of them is a line."""
    over = np.array([0.0, 500.0, 1_500.0])
    runs = [record("ppo", "A-v0", seed, [0, 10, 20]) for seed in range(2)]
    assert runs[1].evaluations is not None
    runs[1] = replace(runs[1], evaluations=replace(runs[1].evaluations, steps=over))
    (curve,) = learning_curves(runs)
    assert (curve.x[0], curve.x[-1]) == (0, 1_000)
    # the mean of a line that goes on as steep as before and of one half as steep
    np.testing.assert_allclose(curve.mean, np.interp(curve.x, [0, 500, 1_000], [0, 10, 17.5]))
    assert score(runs[1], "final") == 20
    when = times(runs[1], "steps")
    assert when is not None
    assert when[-1] == 1_500


def test_logged_columns_are_curves_too(record: MakeRecord) -> None:
    # rows at 250 and 1,000, and at round steps what is on the line between them
    (curve,) = logged_curves([record("ppo", "A-v0", seed, [0, 1, 2]) for seed in range(2)], "train/approx_kl")
    np.testing.assert_allclose(curve.x, [250, *range(260, 1001, 20)])
    np.testing.assert_allclose(curve.mean, 0.01 + 0.01 * (curve.x - 250) / 750)
    assert logged_curves([record("ppo", "A-v0", 0, [0, 1, 2])], "train/ess") == []


@pytest.mark.parametrize("every", [1, 7, 40, 64, 3_000])
def test_a_curve_of_thousands_of_rows_has_as_many_points_as_can_be_seen(record: MakeRecord, every: int) -> None:
    """At steps that all algorithms share, and of the same heights: a line stays the line, noise becomes its mean."""
    clock = np.arange(every, 100_001, every, dtype=np.float64)
    noise = np.where(np.arange(len(clock)) % 2, 50.0, -50.0) if every < 500 else 0
    progress = {"time/total_timesteps": clock, "train/loss": clock / 1_000 + noise}
    (curve,) = logged_curves([record("ppo", "A-v0", 0, [0], progress=progress)], "train/loss")
    assert set(curve.x[1:-1]) <= set(np.arange(2_000, 100_001, 2_000))
    assert len(curve.x) >= 45
    np.testing.assert_allclose(curve.mean, curve.x / 1_000, atol=3 if every < 500 else 1e-9)
