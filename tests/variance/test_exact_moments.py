"""The laboratory against an enumeration of all batches: bias and variance of every estimator.

The confidence of the intervals is raised to 1 - 1e-8, so that all of the some 280 intervals contain the exact values
but with a probability of 3e-6 (once and for all: the seeds are fixed).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import cache

import pytest
import torch as th

from sb3_pg.data.batch import EpisodeBatch
from sb3_pg.estimators import EpisodeIndex
from sb3_pg.variance import Estimator, summary
from sb3_pg.variance.instruments.credits import default_drift_estimators, default_estimators
from sb3_pg.variance.instruments.drift import log_probs_under, weight_statistics
from sb3_pg.variance.instruments.gradients import shifted
from sb3_pg.variance.laboratory import Laboratory
from sb3_pg.variance.measure import compared_with, estimator_result, reference_result, result_of
from sb3_pg.variance.results import Estimate, EstimatorResult
from sb3_pg.variance.store import Stage
from tests.helpers.enumeration import SMALL, Enumeration
from tests.variance.exact import (
    BEHAVIOUR,
    EPISODES,
    GAMMA,
    Moments,
    exact_moments,
    laboratory,
    literal_multipliers,
    logits_of,
    objective_gradient,
    tabular_model,
)

MODEL = tabular_model(SMALL, BEHAVIOUR)
ESTIMATORS = (
    *default_estimators(MODEL, has_critic=True),
    Estimator("reward_to_go", "none", discount_gradient=True),
    Estimator("reward_to_go", "time_leave_one_out", discount_gradient=True),
    Estimator("reward_to_go", "optimal", discount_gradient=True),
    Estimator("gae", "value", "model", 0.5, discount_gradient=True),
    Estimator("reward_to_go", "none", loss_reduction="step"),
)
DRIFT = default_drift_estimators()
Z_CONFIDENCE = 1 - 1e-8


@pytest.fixture(scope="module")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Laboratory:
    return laboratory(
        MODEL,
        tmp_path_factory.mktemp("lab"),
        batches=240,
        reference_batches=240,
        estimators=ESTIMATORS,
        drift_estimators=DRIFT,
        direction="random",
    )


@pytest.fixture(scope="module")
def results(lab: Laboratory) -> Iterator[dict[str, EstimatorResult]]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(summary, "CONFIDENCE", Z_CONFIDENCE)
        reference, measured = lab.reference(), lab.measured()
        compared = {aim: compared_with(lab, one, reference) for aim, one in lab.references.items()}
        yield {one.name: result_of(lab, one, measured, compared[one.aim]) for one in lab.estimators}


def assert_contains(estimate: Estimate, exact: float, what: str) -> None:
    assert estimate.low - 1e-7 <= exact <= estimate.high + 1e-7, f"{what}: {exact} is not in {estimate}"


@cache
def exactly(estimator: Estimator, tables: tuple[tuple[str, tuple[float, ...]], ...]) -> Moments:
    """By enumeration, once for each estimator.

    :param tables: of each critic, its values
    """
    values = {name: th.tensor(one, dtype=th.float64) for name, one in tables}
    return exact_moments(Enumeration(SMALL, BEHAVIOUR), literal_multipliers(estimator, values), EPISODES)


def critic_tables(lab: Laboratory) -> tuple[tuple[str, tuple[float, ...]], ...]:
    """What each critic says of the states."""
    zeros, flags = th.zeros(SMALL.n_states), th.zeros(1, dtype=th.bool)
    facts = (EpisodeIndex.from_lengths(th.tensor([len(zeros)])), th.arange(len(zeros)), zeros, zeros, zeros, zeros)
    batch = EpisodeBatch(*facts, zeros > 0, flags, flags, flags, last_values=zeros[:1])
    return tuple((name, tuple(critic.of_rows(batch).tolist())) for name, critic in lab.critics.items())


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=lambda one: one.name)
def test_moments_of_every_estimator(lab: Laboratory, results: dict[str, EstimatorResult], estimator: Estimator) -> None:
    result = results[estimator.name]
    exact = exactly(estimator, critic_tables(lab))
    aimed = objective_gradient(SMALL, BEHAVIOUR, GAMMA if estimator.aim == "discounted" else 1.0)
    whole = result.whole
    sq_norm = float(exact.mean.square().sum())
    assert_contains(whole.variance, exact.trace, "trace of the covariance")
    assert_contains(whole.sq_norm, sq_norm, "squared norm of the expectation")
    assert_contains(whole.pairwise_cosine, exact.pairwise_cosine, "pairwise cosine")
    assert_contains(whole.direction, float(exact.mean @ aimed / exact.mean.norm() / aimed.norm()), "direction")
    assert_contains(result.noise_scale, EPISODES * exact.trace / sq_norm, "noise scale")
    if estimator.keeps_scale:
        bias = float((exact.mean - aimed).norm())
        for estimate, wanted in (
            (whole.bias, bias),
            (whole.relative_bias, bias / float(aimed.norm())),
            (result.paired_bias, bias),
        ):
            assert_contains(estimate, wanted, "bias")
        unbiased = exactly(lab.references[estimator.aim], critic_tables(lab))
        assert_contains(result.paired_variance, exact.trace / unbiased.trace, "variance relative to the unbiased one")
    else:
        without = (whole.bias, whole.relative_bias, result.paired_bias, result.paired_variance)
        assert all(math.isnan(one.value) for one in without)
    # Which is no empty promise: the intervals are short
    assert 0 < whole.variance.high < 10 * whole.variance.low


@pytest.mark.parametrize("estimator", ESTIMATORS, ids=lambda one: one.name)
def test_every_component_of_the_mean(lab: Laboratory, results: object, estimator: Estimator) -> None:
    """Within 5.7 standard errors of the exact expectation: 170 components, a false alarm rate of 2e-6."""
    gradients = lab.measured().column(f"raw/{estimator.name}").double()
    exact = exactly(estimator, critic_tables(lab))
    errors = gradients.std(0) / len(gradients) ** 0.5
    assert bool(((gradients.mean(0) - exact.mean).abs() <= 5.7 * errors + 1e-6).all())


def test_biases_that_theory_knows(results: dict[str, EstimatorResult]) -> None:
    """The batch mean shrinks a total return's gradient by 1/N, and leaves its direction; what theory calls unbiased has
    no bias that could be seen. At the same confidence."""
    shrunk = results["total, batch_mean"]
    assert_contains(shrunk.whole.relative_bias, 1 / EPISODES, "relative bias")
    assert shrunk.paired_bias.low > 0
    for name in ("total", "total, leave_one_out", "reward_to_go, gamma^t"):
        assert results[name].paired_bias.low == 0, name
        assert results[name].paired_bias.value < shrunk.paired_bias.low, name


def test_the_halves_of_the_reference_tell_its_noise(lab: Laboratory, results: object) -> None:
    """The squared error of the reference, and that of its halves' difference, are tr Cov / m in expectation. Each is
    a sum of squares of at most m such normal numbers: beyond 25 times that with a probability below 6e-7 each."""
    stage = lab.reference()
    for aim, gamma in (("discounted", GAMMA), ("undiscounted", 1.0)):
        estimator = lab.references[aim]
        gradients = stage.column(f"raw/{estimator.name}").double()
        expected = float(gradients.var(0).sum()) / len(gradients)
        error = float((gradients.mean(0) - objective_gradient(SMALL, BEHAVIOUR, gamma)).square().sum())
        found = reference_result(stage, lab, estimator, aim)
        assert error < 25 * expected
        assert 1e-5 * expected < found.half_distance**2 < 25 * expected
        assert found.half_cosine > 0.9
        exact = float(objective_gradient(SMALL, BEHAVIOUR, gamma).norm())
        assert_contains(found.norm, exact, "norm of the gradient")


@pytest.fixture(scope="module")
def drifted(lab: Laboratory, results: object) -> tuple[th.Tensor, Stage, Stage]:
    """The logits of a policy with a KL of 0.05, its reference, and the estimators there."""
    kl = 0.05
    step = lab.step(kl)
    assert step.kl == pytest.approx(kl, rel=0.011)
    return logits_of(shifted(lab.policy, lab.parameters, step.vector)), *lab.drift(0, step, kl)


@pytest.mark.parametrize("estimator", DRIFT, ids=lambda one: one.name)
def test_moments_of_every_level_of_weights(
    lab: Laboratory, drifted: tuple[th.Tensor, Stage, Stage], estimator: Estimator, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(summary, "CONFIDENCE", Z_CONFIDENCE)
    theta, reference, measured = drifted
    exact = exact_moments(Enumeration(SMALL, BEHAVIOUR, theta), literal_multipliers(estimator, {}), EPISODES)
    blocks = reference.column(f"raw/{lab.references['undiscounted'].name}").double()
    result = estimator_result(lab, estimator, measured, blocks)
    aimed = objective_gradient(SMALL, theta, 1.0)
    assert_contains(result.whole.variance, exact.trace, "trace of the covariance")
    assert_contains(result.whole.sq_norm, float(exact.mean.square().sum()), "squared norm of the expectation")
    assert_contains(result.whole.bias, float((exact.mean - aimed).norm()), "bias")


def test_statistics_of_the_weights(lab: Laboratory, drifted: tuple[th.Tensor, Stage, Stage]) -> None:
    """Of one batch, recomputed from the tables of the two policies."""
    theta, _, measured = drifted
    batch = lab.play(0, 0)[0]
    states, actions = batch.observations, batch.actions
    assert isinstance(states, th.Tensor)
    ratios = [(p.log_softmax(-1)[states, actions]) for p in (theta, BEHAVIOUR)]
    rho = (ratios[0] - ratios[1]).exp()
    products = [rho[rows].cumprod(0) for rows in batch.each_episode()]
    levels = [rho, th.cat(products), th.stack([one[-1] for one in products]), th.ones_like(rho)]
    for name, of in (
        ("ess", lambda w: w.sum() ** 2 / (len(w) * w.square().sum())),
        ("weight_variance", lambda w: w.var()),
        ("weight_max", lambda w: w.max()),
    ):
        found = measured.column(name)[0]
        th.testing.assert_close(found, th.stack([of(w) for w in levels]), rtol=1e-4, atol=1e-6)
    there = shifted(lab.policy, lab.parameters, th.zeros(6, dtype=th.float64))
    assert weight_statistics(batch, log_probs_under(there, batch))["ess"] == pytest.approx([1.0] * 4)
