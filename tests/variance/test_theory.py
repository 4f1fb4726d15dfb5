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

from sb3_pg import VanillaPG
from sb3_pg.data.batch import concatenate
from sb3_pg.estimators import Importance, reward_to_go
from sb3_pg.variance import Estimator, Measurement, measure_gradients, summary
from sb3_pg.variance.instruments.gradients import shifted
from sb3_pg.variance.laboratory import Laboratory
from sb3_pg.variance.results import Estimate, EstimatorResult, Summary
from sb3_pg.variance.settings import Settings
from sb3_pg.variance.store import Stage
from sb3_pg.variance.summary import variance_ratio
from tests.helpers.tabular import long_episodes_pay
from tests.variance.exact import logits_of, tabular_model

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


@pytest.fixture(scope="module", autouse=True)
def high_confidence() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(summary, "CONFIDENCE", 1 - 1e-8)
        yield


def settings_of(episodes: int = 8, **settings: Any) -> Settings:
    asked: dict[str, Any] = {
        "batches": 240,
        "reference_batches": 240,
        "chunk_batches": 80,
        "transforms": (),
        "estimators": ESTIMATORS,
        "drifts": (),
        "landscape": (),
        **settings,
    }
    return Settings(episodes=episodes, **asked)


def model(n_envs: int = 4) -> VanillaPG:
    """Without discounting, so that there is one objective."""
    return tabular_model(MDP, THETA, n_envs, gamma=1.0)


def measured(folder: Path, episodes: int = 8, **settings: Any) -> Measurement:
    """With an environment for each episode of a batch."""
    return measure_gradients(model(episodes), None, settings_of(episodes, **settings), folder)


FAR = settings_of(drifts=(0.01, 0.2), landscape=SIZES, landscape_kl=0.05, landscape_batches=320)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("theory")


@pytest.fixture(scope="module")
def measurement(folder: Path) -> Measurement:
    return measure_gradients(model(), None, FAR, folder)


@pytest.fixture(scope="module")
def lab(folder: Path, measurement: Measurement) -> Laboratory:
    """The one that measured, with its pieces."""
    return Laboratory(model(), None, FAR, folder)


@pytest.fixture(scope="module")
def results(measurement: Measurement) -> dict[str, EstimatorResult]:
    return {one.name: one for one in measurement.estimators}


def below(one: Estimate, other: Estimate) -> bool:
    """Whether the intervals are apart, in this order."""
    return one.high < other.low


def lowers(stage: Stage, one: str, other: str) -> bool:
    """Whether the first estimator's variance is below the second's, on the same batches."""
    return variance_ratio(*(stage.column(f"raw/{name}") for name in (one, other))).high < 1


def test_each_step_of_the_lectures_lowers_the_variance(lab: Laboratory, results: dict[str, EstimatorResult]) -> None:
    """Total return, less a baseline; rewards to go; less a baseline of each step; and nothing of it biases."""
    stage = lab.measured()
    for one, other in (
        ("total, leave_one_out", "total"),
        ("reward_to_go", "total"),
        ("reward_to_go, time_leave_one_out", "reward_to_go"),
        ("reward_to_go, fitted critic", "reward_to_go"),
    ):
        assert lowers(stage, one, other), (one, other)
    unbiased = results["reward_to_go, time_leave_one_out"]
    assert unbiased.paired_variance.value == 1
    assert results["total"].paired_variance.low > 1 < results["reward_to_go"].paired_variance.low
    for name in ("total", "total, leave_one_out", "reward_to_go", "reward_to_go, fitted critic"):
        assert results[name].paired_bias.low == 0, name


def test_lambda_trades_bias_for_variance(results: dict[str, EstimatorResult]) -> None:
    """With a wrong critic: the smaller lambda, the more bias and the less variance; at 1 no bias at all."""
    rows = [results[f"gae {one:g}, model critic"] for one in LAMBDAS]
    for smaller, larger in itertools.pairwise(rows):
        assert larger.paired_bias.value < smaller.paired_bias.value
        assert smaller.whole.variance.value < larger.whole.variance.value
    assert below(rows[0].paired_variance, rows[-1].paired_variance)
    assert rows[-1].paired_bias.low == 0 < rows[0].paired_bias.low


def best_explained_variance(lab: Laboratory) -> float:
    """What the mean rewards to go of each state explain of the episodes that they are the means of."""
    batch = concatenate([one for chunk in range(3) for one in lab.measured_batches(chunk)])
    to_go, states = reward_to_go(batch.rewards, batch.episodes, 1.0).double(), batch.observations
    assert isinstance(states, th.Tensor)
    means = th.stack([to_go[states == state].mean() for state in range(MDP.n_states)])
    return 1 - float((to_go - means[states]).var() / to_go.var())


def test_a_fitted_critic_explains_more_than_a_wrong_one(lab: Laboratory, measurement: Measurement) -> None:
    """Not much, for these rewards to go are mostly chance: but not less than half of what a state can say of them."""
    critics = {one.name: one for one in measurement.critics}
    assert critics["zero"].explained_variance.value == 0
    assert below(critics["model"].explained_variance, critics["fitted"].explained_variance)
    best = best_explained_variance(lab)
    assert 0 < best < 0.1
    assert critics["fitted"].explained_variance.value > best / 2 and critics["fitted"].passes > 0


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
        assert point.summary.n == 240 // point.batches
        expected = curve[0].summary.variance.value / point.batches
        assert point.summary.variance.low < expected < point.summary.variance.high
    assert curve[0].summary.pairwise_cosine.value < curve[3].summary.pairwise_cosine.value
    assert curve[0].summary.reference_cosine.value < curve[3].summary.reference_cosine.value


def test_fewer_weights_count_the_further_off_and_the_longer_the_product(measurement: Measurement) -> None:
    """And without weights there is bias."""
    near, far = measurement.drifts
    for drift in (near, far):
        weights = {one.level: one for one in drift.weights}
        assert below(weights["trajectory"].ess, weights["timestep"].ess)
        assert weights["none"].ess.value == pytest.approx(1.0) and weights["none"].variance.value == 0
        assert drift.measured_kl == pytest.approx(drift.kl, rel=0.011)
    for close, distant in zip(near.weights[:3], far.weights[:3], strict=True):
        assert below(distant.ess, close.ess) and below(close.variance, distant.variance)
    found: dict[str, Summary] = {one.name: one.whole for one in far.estimators}
    assert found["reward_to_go, trajectory"].bias.low == found["reward_to_go, per_decision"].bias.low == 0
    assert found["reward_to_go"].bias.low > 0


def test_the_ladder_of_weights(tmp_path: Path) -> None:
    """The gradient is noisier with a weight of whole episodes than with one of each reward's past, and than with one of
    each step; and tamed by self-normalisation. On 12,800 episodes, for the tails are heavy; in large batches, since it
    is the episodes that count."""
    levels: tuple[Importance, ...] = ("timestep", "per_decision", "trajectory")
    weighted = (*(Estimator(importance=one) for one in levels), Estimator(importance="trajectory", self_normalize=True))
    asked = settings_of(
        episodes=32,
        batches=400,
        reference_batches=80,
        estimators=ESTIMATORS[:1],
        drifts=(0.05,),
        drift_estimators=weighted,
    )
    lab = Laboratory(model(asked.episodes), None, asked, tmp_path)
    step = lab.step(0.05)
    timestep, per_decision, trajectory, tamed = (one.name for one in weighted)
    stage = lab.drift(0, step, 0.05)[1]
    for one, other in ((timestep, per_decision), (per_decision, trajectory), (tamed, trajectory)):
        assert lowers(stage, one, other), (one, other)


def test_the_landscape_is_the_objective(lab: Laboratory, measurement: Measurement) -> None:
    """Gains along the step against dynamic programming; the surrogate is of the same slope at its foot."""
    assert measurement.landscape is not None
    kl = FAR.landscape_kl
    step = lab.step(kl)
    here = float(MDP.objective(THETA.float().double(), 1.0))
    for point in measurement.landscape.points:
        there = logits_of(shifted(lab.policy, lab.parameters, point.size * step.vector))
        exact = float(MDP.objective(there, 1.0))
        assert point.mean_return.low < exact < point.mean_return.high
        assert point.gain.low <= exact - here + 1e-6 and exact - here - 1e-6 <= point.gain.high
        assert abs(point.kl - kl * point.size**2) < 0.02 * abs(point.size) + 1e-6
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
