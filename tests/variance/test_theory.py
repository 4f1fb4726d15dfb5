"""What theory says of the estimators is what the laboratory finds, on episodes of random length up to eight steps.

Intervals of 1 - 1e-8 throughout: two that do not overlap are in that order but with a probability of 1e-8.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch as th

from sb3_pg.variance import Estimator, Measurement, measure_gradients, summary
from sb3_pg.variance.drift import step_of_kl
from sb3_pg.variance.gradients import shifted
from sb3_pg.variance.results import Estimate, EstimatorResult, Summary
from sb3_pg.variance.settings import Settings
from tests.helpers.tabular import long_episodes_pay
from tests.variance.exact import laboratory, logits_of, tabular_model

MDP = long_episodes_pay()
THETA = 0.5 * MDP.random_logits(3)
LAMBDAS = (0.0, 0.5, 0.9, 1.0)
ESTIMATORS = (
    Estimator("total", "none"),
    Estimator("total", "leave_one_out"),
    Estimator("reward_to_go", "none"),
    Estimator("reward_to_go", "time_leave_one_out"),
    Estimator("reward_to_go", "value", "fitted"),
    *(Estimator("gae", "value", "model", one) for one in LAMBDAS),
)
SIZES = (-1.0, 0.0, 0.25, 1.0)

#: Written before the intervals of the laboratory became what they are; to be brought up to them.
pytestmark = pytest.mark.skip(reason="the laboratory is in the making: its intervals have changed since")


@pytest.fixture(scope="module", autouse=True)
def high_confidence() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(summary, "CONFIDENCE", 1 - 1e-8)
        yield


def measured(folder: Path, episodes: int = 8, **settings: Any) -> Measurement:
    """Without discounting, so that there is one objective."""
    asked: dict[str, Any] = {
        "batches": 160,
        "reference_batches": 160,
        "chunk_batches": 80,
        "transforms": (),
        "estimators": ESTIMATORS,
        "drifts": (),
        "landscape": (),
        **settings,
    }
    model = tabular_model(MDP, THETA, n_envs=4, gamma=1.0)
    return measure_gradients(model, None, Settings(episodes=episodes, **asked), folder)


@pytest.fixture(scope="module")
def measurement(tmp_path_factory: pytest.TempPathFactory) -> Measurement:
    return measured(
        tmp_path_factory.mktemp("theory"),
        drifts=(0.01, 0.2),
        landscape=SIZES,
        landscape_kl=0.02,
        landscape_batches=160,
    )


@pytest.fixture(scope="module")
def results(measurement: Measurement) -> dict[str, EstimatorResult]:
    return {one.name: one for one in measurement.estimators}


def below(one: Estimate, other: Estimate) -> bool:
    """Whether the intervals are apart, in this order."""
    return one.high < other.low


def test_each_step_of_the_lectures_lowers_the_variance(results: dict[str, EstimatorResult]) -> None:
    """Total return, less a baseline; rewards to go; less a baseline of each step; and nothing of it biases."""
    variance = {name: one.whole.variance for name, one in results.items()}
    assert below(variance["total, leave_one_out"], variance["total"])
    assert below(variance["reward_to_go"], variance["total"])
    assert below(variance["reward_to_go, time_leave_one_out"], variance["reward_to_go"])
    assert below(variance["reward_to_go, fitted critic"], variance["reward_to_go"])
    assert below(results["reward_to_go, time_leave_one_out"].noise_scale, results["total"].noise_scale)
    assert below(results["total"].whole.pairwise_cosine, results["reward_to_go, fitted critic"].whole.pairwise_cosine)
    for name in ("total", "total, leave_one_out", "reward_to_go", "reward_to_go, fitted critic"):
        assert results[name].paired_bias.low == 0, name


def test_lambda_trades_bias_for_variance(results: dict[str, EstimatorResult]) -> None:
    """With a wrong critic: the smaller lambda, the more bias and the less variance; at 1 no bias at all."""
    rows = [results[f"gae {one:g}, model critic"] for one in LAMBDAS]
    for smaller, larger in itertools.pairwise(rows):
        assert larger.paired_bias.value < smaller.paired_bias.value
        assert smaller.whole.variance.value < larger.whole.variance.value
    assert below(rows[-1].paired_bias, rows[0].paired_bias)
    assert below(rows[0].whole.variance, rows[-1].whole.variance)
    assert rows[-1].paired_bias.low == 0 < rows[0].paired_bias.low


def test_a_fitted_critic_explains_more_than_a_wrong_one(measurement: Measurement) -> None:
    critics = {one.name: one for one in measurement.critics}
    assert critics["zero"].explained_variance.value == 0
    assert below(critics["model"].explained_variance, critics["fitted"].explained_variance)
    assert critics["fitted"].explained_variance.value > 0.1 and critics["fitted"].passes > 0


def test_variance_falls_with_the_batch_size(tmp_path: Path, results: dict[str, EstimatorResult]) -> None:
    """tr Cov / N: of batches of 4 episodes and of 16, and of the means of k batches along the curve."""
    estimators = ESTIMATORS[2:3]
    small = measured(tmp_path, episodes=4, estimators=estimators).estimators[0].whole.variance
    large = measured(tmp_path, episodes=16, estimators=estimators).estimators[0].whole.variance
    assert small.low / large.high < 4 < small.high / large.low
    assert below(large, small)
    curve = results["reward_to_go"].curve
    assert [point.episodes for point in curve] == [8 * point.batches for point in curve] == [8, 16, 32, 64, 128, 256]
    for point in curve[1:]:
        assert point.summary.n == 160 // point.batches
        expected = curve[0].summary.variance.value / point.batches
        assert point.summary.variance.low < expected < point.summary.variance.high
    assert curve[0].summary.pairwise_cosine.value < curve[3].summary.pairwise_cosine.value
    assert curve[0].summary.reference_cosine.value < curve[3].summary.reference_cosine.value


def test_the_ladder_of_weights(measurement: Measurement) -> None:
    """Further off, the weights of whole episodes are fewer effective ones, and the gradient noisier: trajectory above
    per-decision above single steps, whose bias is what that costs, and which none at all has most of."""
    near, far = measurement.drifts
    for drift in (near, far):
        weights = {one.level: one for one in drift.weights}
        assert below(weights["trajectory"].ess, weights["timestep"].ess)
        assert weights["none"].ess.value == pytest.approx(1.0) and weights["none"].variance.value == 0
        assert drift.measured_kl == pytest.approx(drift.kl, rel=0.011)
    for close, distant in zip(near.weights[:3], far.weights[:3], strict=True):
        assert below(distant.ess, close.ess) and below(close.variance, distant.variance)
    found: dict[str, Summary] = {one.name: one.whole for one in far.estimators}
    assert below(found["reward_to_go, per_decision"].variance, found["reward_to_go, trajectory"].variance)
    assert below(
        found["reward_to_go, trajectory, self-normalized"].variance, found["reward_to_go, trajectory"].variance
    )
    assert found["reward_to_go, trajectory"].bias.low == found["reward_to_go, per_decision"].bias.low == 0
    assert found["reward_to_go"].bias.low > 0


def test_the_landscape_is_the_objective(measurement: Measurement, tmp_path: Path) -> None:
    """Gains along the step against dynamic programming; the surrogate is of the same slope at its foot."""
    assert measurement.landscape is not None
    lab = laboratory(
        tabular_model(MDP, THETA, n_envs=4, gamma=1.0),
        tmp_path,
        episodes=8,
        chunk_batches=80,
        reference_batches=160,
        estimators=ESTIMATORS[:1],
    )
    step = step_of_kl(lab.policy, lab.parameters, lab.reference_states(), lab.direction(lab.reference()), 0.02)
    here = float(MDP.objective(THETA.float().double(), 1.0))
    for point in measurement.landscape.points:
        there = logits_of(shifted(lab.policy, lab.parameters, point.size * step.vector))
        exact = float(MDP.objective(there, 1.0))
        assert point.mean_return.low < exact < point.mean_return.high
        assert point.gain.low <= exact - here + 1e-6 and exact - here - 1e-6 <= point.gain.high
        assert abs(point.kl - 0.02 * point.size**2) < 0.01 * abs(point.size) + 1e-6
    points = {point.size: point for point in measurement.landscape.points}
    assert points[0.0].gain.value == 0 and abs(points[0.0].surrogate.value) < 1e-4
    assert points[1.0].surrogate.low > 0 > points[-1.0].surrogate.high
    assert points[0.25].surrogate.low < points[0.25].gain.high and points[0.25].gain.low < points[0.25].surrogate.high
    assert points[1.0].clipped.value <= points[1.0].surrogate.value


def test_with_more_batches_the_pieces_stay(tmp_path: Path) -> None:
    """Chunks that are there are not made again, and the measurement is that of all of them."""
    few: dict[str, Any] = {"batches": 8, "reference_batches": 8, "chunk_batches": 4, "estimators": ESTIMATORS[2:4]}
    measured(tmp_path, **few)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.npz")}
    extended = measured(tmp_path, **few | {"batches": 16})
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert repr(extended) == repr(measured(tmp_path / "anew", **few | {"batches": 16}))
    assert th.tensor([one.whole.n for one in extended.estimators]).eq(16).all()
