"""Numbers worked out by hand, and every argument that is refused. Also the checks of ``test_mutations.py``."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch as th

from sb3_pg import estimators as est
from tests.helpers.enumeration import batch_baseline


def vector(values: Sequence[float]) -> th.Tensor:
    return th.tensor(values, dtype=th.float64)


def index(*lengths: int, first_step: Sequence[int] | None = None) -> est.EpisodeIndex:
    first = None if first_step is None else th.tensor(first_step)
    return est.EpisodeIndex.from_lengths(th.tensor(lengths), first)


def assert_values(result: th.Tensor, expected: Sequence[float] | float, tolerance: float = 1e-12) -> None:
    """Equal in value and shape, to an absolute 1e-12."""
    expected_tensor = th.as_tensor(expected, dtype=result.dtype)
    th.testing.assert_close(result, expected_tensor, rtol=0, atol=tolerance, equal_nan=True)


# The layout of a batch


def test_episode_index_of_three_episodes() -> None:
    episodes = index(2, 1, 3)
    assert (episodes.n_episodes, episodes.n_rows) == (3, 6)
    fields = {
        "lengths": [2, 1, 3],
        "episode": [0, 0, 1, 2, 2, 2],
        "step": [0, 1, 0, 0, 1, 2],
        "position": [0, 1, 0, 0, 1, 2],
        "remaining": [1, 0, 0, 2, 1, 0],
        "first_row": [0, 2, 3],
        "last_row": [1, 2, 5],
    }
    assert {name: getattr(episodes, name).tolist() for name in fields} == fields


def test_episode_index_of_episodes_that_began_elsewhere() -> None:
    """``step`` counts from the episode's beginning, ``position`` and ``remaining`` only see the rows in the batch."""
    episodes = index(2, 3, first_step=[4, 0])
    assert episodes.step.tolist() == [4, 5, 0, 1, 2]
    assert episodes.position.tolist() == [0, 1, 0, 1, 2]
    assert episodes.remaining.tolist() == [1, 0, 2, 1, 0]


def test_an_episode_that_began_elsewhere_is_compared_at_its_true_step() -> None:
    """Steps 1, 2 of one episode next to steps 0, 1 of another: only step 1 is shared."""
    episodes, returns = index(2, 2, first_step=[1, 0]), vector([3, 1, 7, 5])
    assert_values(est.time_mean(returns, episodes), [4, 1, 7, 4])
    assert_values(est.time_leave_one_out(returns, episodes), [5, 0, 0, 3])
    assert_values(est.discount_factors(episodes, 0.5, th.float64), [0.5, 0.25, 1, 0.5])


def test_segment_sum() -> None:
    assert_values(est.segment_sum(vector([1, 2, 3, 4, 5, 6]), index(2, 1, 3)), [3, 3, 15])


# Returns


@pytest.mark.parametrize(
    ("rewards", "gamma", "expected"),
    [
        ([1, 0, 3, 2], 1.0, [6, 5, 5, 2]),
        ([10, 1, 2, 3], 1.0, [16, 6, 5, 3]),  # PFRL had [9, 8, 6, 3]
        ([1, 0, 3, 2], 0.5, [2, 2, 4, 2]),
        ([1, 0, 3, 2], 0.0, [1, 0, 3, 2]),
        ([7], 0.9, [7]),
    ],
)
def test_reward_to_go_of_one_episode(rewards: list[float], gamma: float, expected: list[float]) -> None:
    assert_values(est.reward_to_go(vector(rewards), index(len(rewards)), gamma), expected)


def test_returns_do_not_leak_over_the_end_of_an_episode() -> None:
    """Episodes [1, 0, 3, 2], [10], [1, 1] side by side."""
    rewards, episodes = vector([1, 0, 3, 2, 10, 1, 1]), index(4, 1, 2)
    assert_values(est.reward_to_go(rewards, episodes, 1.0), [6, 5, 5, 2, 10, 2, 1])
    assert_values(est.total_return(rewards, episodes, 1.0), [6, 6, 6, 6, 10, 2, 2])
    assert_values(est.reward_to_go(rewards, episodes, 0.5), [2, 2, 4, 2, 10, 1.5, 1])
    assert_values(est.total_return(rewards, episodes, 0.5), [2, 2, 2, 2, 10, 1.5, 1.5])


def test_last_values_are_discounted_to_each_step() -> None:
    """+ gamma^(T-t) V(s'): 8 after two steps at gamma 1/2 is worth 4 at the last step and 2 at the first."""
    rewards, episodes, last_values = vector([1, 1, 5]), index(2, 1), vector([8, 0])
    assert_values(est.reward_to_go(rewards, episodes, 0.5, last_values), [3.5, 5, 5])
    assert_values(est.total_return(rewards, episodes, 0.5, last_values), [3.5, 3.5, 5])
    assert_values(rewards, [1, 1, 5])


def test_discount_factors() -> None:
    """gamma^t from gamma^0 = 1, starting anew with every episode."""
    assert_values(est.discount_factors(index(3, 2), 0.5, th.float64), [1, 0.5, 0.25, 1, 0.5])
    assert_values(est.discount_factors(index(3), 0.0, th.float64), [1, 0, 0])
    assert est.discount_factors(index(3), 0.5).dtype == th.float32


@pytest.mark.parametrize(
    ("gae_lambda", "expected"),
    [
        # delta = [1 + 2 - 2, 0 + 3 - 4, 2 + 0 - 6, 3 + 4 - 1]
        (0.0, [1, -1, -4, 6]),
        (0.5, [0.5, -2, -4, 6]),
        (1.0, [-0.5, -3, -4, 6]),
    ],
)
def test_generalized_advantage_by_hand(gae_lambda: float, expected: list[float]) -> None:
    """gamma 1/2; the first episode of three steps ended, the second of one step was cut with V = 8."""
    rewards, values, last_values = vector([1, 0, 2, 3]), vector([2, 4, 6, 1]), vector([0, 8])
    result = est.generalized_advantage(rewards, values, index(3, 1), 0.5, gae_lambda, last_values)
    assert_values(result, expected)


def test_vtrace_advantage_by_hand() -> None:
    """gamma 1/2, lambda 1; deltas 1, -1, -4 and 6; ratios 5 (of no use), 2 (cut to 1 or 1.5) and 1/4."""
    rewards, values, last_values = vector([1, 0, 2, 3]), vector([2, 4, 6, 1]), vector([0, 8])
    log_ratios = vector([5, 2, 0.25, 7]).log()
    result = est.vtrace_advantage(rewards, values, log_ratios, index(3, 1), 0.5, 1.0, last_values)
    assert_values(result, [1 + 0.5 * -1.5, -1.5, -4, 6])
    result = est.vtrace_advantage(rewards, values, log_ratios, index(3, 1), 0.5, 1.0, last_values, max_ratio=1.5)
    assert_values(result, [1 + 0.75 * -1.5, -1.5, -4, 6])


# Baselines


@pytest.mark.parametrize(
    ("baseline", "expected"),
    [
        ("batch_mean", [0.25] * 4),
        ("time_mean", [0.25] * 4),
        ("leave_one_out", [1 / 3, 1 / 3, 1 / 3, 0]),
        ("time_leave_one_out", [1 / 3, 1 / 3, 1 / 3, 0]),
    ],
)
def test_baselines_of_four_one_step_episodes(baseline: str, expected: list[float]) -> None:
    """Rewards 0, 0, 0, 1: advantages -1/4, -1/4, -1/4, 3/4, and leaving one out -1/3, -1/3, -1/3, 1."""
    assert_values(batch_baseline(baseline, vector([0, 0, 0, 1]), index(1, 1, 1, 1)), expected)


def test_batch_mean_of_five_rewards() -> None:
    assert_values(est.batch_mean(vector([-2, 2, 0, 1, -3]), index(1, 1, 1, 1, 1)), [-0.4] * 5)


@pytest.mark.parametrize(
    ("baseline", "expected"),
    [
        ("batch_mean", [5, 5, 5, 5, 5, 5]),
        ("leave_one_out", [4.5, 4.5, 4.5, 4, 6.5, 6.5]),
        ("time_mean", [5, 3, 1, 5, 5, 3]),
        ("time_leave_one_out", [4.5, 1, 0, 4, 6.5, 5]),
    ],
)
def test_baselines_of_ragged_episodes(baseline: str, expected: list[float]) -> None:
    """Returns [6, 5, 1], [7], [2, 1]: the episode's return is its first row's, a late step has fewer peers."""
    assert_values(batch_baseline(baseline, vector([6, 5, 1, 7, 2, 1]), index(3, 1, 2)), expected)


def test_baselines_of_one_episode() -> None:
    """The mean is its own return; no others are alive with it."""
    returns = vector([3, 1])
    assert_values(est.batch_mean(returns, index(2)), [3, 3])
    assert_values(est.time_mean(returns, index(2)), [3, 1])
    assert_values(est.time_leave_one_out(returns, index(2)), [0, 0])


def test_optimal_constant_by_hand() -> None:
    """Two episodes of |S|^2 = 1 and 4 that earned 6 and 1: (6 + 4) / (1 + 4) = 2; 0 where every score vanishes."""
    assert_values(est.optimal_constant(vector([6, 4]), vector([1, 4])), 2)
    assert_values(est.optimal_constant(vector([0, 0]), vector([0, 0])), 0)


def test_the_optimal_constant_of_rewards_to_go_is_not_greensmiths() -> None:
    """Scores of +1 or -1 independent of one another, a reward of 1 a step, T = 100: over all episodes
    E<R, S> = sum_t G_t = 5,050 and E|S|^2 = 100, hence b = 50.5 where Greensmith's is E[S^2 G] / E[S^2] = 100.
    The variance of the estimate is sum_t (G_t - b)^2: 338,350, 328,350 and 83,325."""
    to_go = est.reward_to_go(vector([1] * 100), index(100), 1.0)
    b = est.optimal_constant(to_go.sum().reshape(1), vector([100]))
    assert_values(b, 50.5)
    assert [float((to_go - one).square().sum()) for one in (0.0, 100.0, b)] == [338_350.0, 328_350.0, 83_325.0]


# The divisor and the surrogate


def test_loss_divisors() -> None:
    assert_values(est.loss_divisor(index(3, 1, 2), "episode"), 3)
    assert_values(est.loss_divisor(index(3, 1, 2), "step"), 6)
    assert_values(est.loss_divisor(index(3, 1, 2), "mean_length", 2.5), 7.5)


def test_score_function_surrogate_by_hand() -> None:
    """(2 * -1 + 3 * -0.5) / 4, with gradient [2/4, 3/4]."""
    log_prob = vector([-1, -0.5]).requires_grad_()
    surrogate = est.score_function_surrogate(log_prob, vector([2, 3]), 4)
    assert_values(surrogate.detach(), -0.875)
    assert_values(th.autograd.grad(surrogate, log_prob)[0], [0.5, 0.75])


def test_the_weights_are_constants_of_the_surrogate() -> None:
    """A weight made of the same parameters gets no gradient: d/dx [const(x) * x] = x."""
    x = vector([3.0]).requires_grad_()
    assert_values(th.autograd.grad(est.score_function_surrogate(x, x, 1), x)[0], [3])


# Importance weights


LEVELS: list[est.Importance] = ["timestep", "per_decision", "trajectory", "none"]


def weights_of(log_ratios: th.Tensor, episodes: est.EpisodeIndex, importance: est.Importance) -> th.Tensor:
    return est.importance_weights(est.path_log_ratio(log_ratios, episodes, importance))


def test_ratios_go_through_log_space() -> None:
    """0.6 / 0.3 = 2, also of probabilities that no float holds; 50 steps of 1.08 make 46.9, of 0.95 make 0.077."""
    log_ratios = est.log_ratio(vector([math.log(0.6), -2000.0]), vector([math.log(0.3), -2000.0 - math.log(2)]))
    assert_values(weights_of(log_ratios, index(1, 1), "timestep"), [2, 2], 1e-9)
    behaviour, ratio = th.full((100,), 0.5, dtype=th.float64), vector([1.08] * 50 + [0.95] * 50)
    log_ratios = est.log_ratio((behaviour * ratio).log(), behaviour.log())
    weights = weights_of(log_ratios, index(50, 50), "trajectory")
    assert_values(weights[:50], [46.9] * 50, 0.05)
    assert_values(weights[50:], [0.077] * 50, 0.0005)


@pytest.mark.parametrize(
    ("importance", "expected"),
    [
        ("timestep", [2, 0.5, 3, 5, 4, 1]),
        ("per_decision", [2, 1, 3, 5, 20, 20]),
        ("trajectory", [3, 3, 3, 20, 20, 20]),
        ("none", [1, 1, 1, 1, 1, 1]),
    ],
)
def test_the_products_of_each_level(importance: est.Importance, expected: list[float]) -> None:
    """Episodes of the ratios 2, 1/2, 3 and 5, 4, 1."""
    log_ratios = vector([2, 0.5, 3, 5, 4, 1]).log()
    assert_values(weights_of(log_ratios, index(3, 3), importance), expected, 1e-12)


def test_a_running_sum_does_not_leak_into_the_next_episode() -> None:
    """Nor does a huge or an infinite one: episodes [1, 2, 4], [x], [8, 16] side by side."""
    for x in (1e9, -3.4e38, -math.inf):
        values, episodes = vector([1, 2, 4, x, 8, 16]), index(3, 1, 2)
        assert_values(est.segment_cumulative_sum(values, episodes), [1, 3, 7, x, 8, 24])
        assert est.segment_cumulative_sum(values.float(), episodes).tolist() == [1, 3, 7, float(th.tensor(x)), 8, 24]


def test_a_long_episode_of_unlikely_actions_has_its_weight_in_single_precision() -> None:
    """5,000 steps whose log-prob is -1000 each under both policies but for one of the steps, where it is -999 + log 2
    against -999: the weight is 2, from that step on or over the whole path."""
    behaviour = th.full((5000,), -1000.0)
    behaviour[3000] = -999.0
    log_prob = behaviour.clone()
    log_prob[3000] += math.log(2)
    log_ratios = est.log_ratio(log_prob, behaviour)
    assert_values(weights_of(log_ratios, index(5000), "trajectory"), [2.0] * 5000, 1e-4)
    expected = [1.0] * 3000 + [2.0] * 2000
    assert_values(weights_of(log_ratios, index(5000), "per_decision"), expected, 1e-4)


def test_truncated_weights() -> None:
    """min(rho, c): 2 -> 1.5, 0.5 stays; a ratio beyond every float is c, or the largest weight that is used."""
    log_ratios = vector([2, 0.5]).log()
    assert_values(est.importance_weights(log_ratios, 1.5), [1.5, 0.5])
    assert_values(est.importance_weights(log_ratios), [2, 0.5])
    assert_values(est.importance_weights(vector([1e6]), 5.0), [5])
    assert_values(est.importance_weights(vector([1e6])).log(), [est.overflow_limit(th.float64)], 1e-9)
    assert_values(est.importance_weights(vector([-1e6, -math.inf])), [0, 0])


@pytest.mark.parametrize("dtype", [th.float32, th.float64])
def test_no_weight_overflows(dtype: th.dtype) -> None:
    """100,000 weights of exp(1e6), or of exp(inf): they, the sum of their squares and all that is made of them are
    finite, and the sample size that they are worth is the whole; with one of them among ones it is that one."""
    for log_weight in (1e6, math.inf):
        weights = est.importance_weights(th.full((100_000,), log_weight, dtype=dtype))
        assert weights.dtype == dtype
        assert bool(weights.isfinite().all())
        assert bool(weights.square().sum().isfinite())
        assert float(est.effective_sample_size(weights)) == pytest.approx(1, abs=1e-3)
        assert_values(est.self_normalized(weights, None, "timestep"), [1.0] * 100_000, 1e-3)
        weights[1:] = 1.0
        assert float(est.effective_sample_size(weights)) == pytest.approx(1e-5, rel=1e-4)


def test_the_sample_size_of_small_weights() -> None:
    """Four equal weights are worth four, though their squares vanish in single precision."""
    weights = est.importance_weights(th.full((4,), -60.0))
    assert float(est.effective_sample_size(weights)) == pytest.approx(1)


@pytest.mark.parametrize(("advantage", "value", "slope"), [(1.0, 1.2, 0.0), (0.0, 0.0, 0.0), (-1.0, None, None)])
def test_a_clipped_ratio_that_overflows(advantage: float, value: float | None, slope: float | None) -> None:
    """log rho = 100 in single precision: clipped where the advantage is positive; where it is negative the ratio is
    truncated at what a float can hold, and goes on pushing."""
    log_ratios = th.tensor([100.0], requires_grad=True)
    surrogate = est.clipped_surrogate(log_ratios, th.tensor([advantage]), 0.2, 1.0)
    (gradient,) = th.autograd.grad(surrogate, log_ratios)
    limit = -math.exp(est.overflow_limit(th.float32))
    assert float(surrogate.detach()) == pytest.approx(limit if value is None else value, rel=1e-5)
    assert float(gradient) == pytest.approx(limit if slope is None else slope, rel=1e-5)


def test_defensive_weights_by_hand() -> None:
    """p / (0.75 q + 0.25 p): 2 / (0.75 + 0.5), 0.5 / (0.75 + 0.125), at most 4, at least 0; and truncated after it."""
    log_ratios = vector([math.log(2), math.log(0.5), 0, 1e6, math.inf, -1e6])
    assert_values(est.importance_weights(log_ratios, defensive_coef=0.25), [1.6, 4 / 7, 1, 4, 4, 0])
    assert_values(est.importance_weights(log_ratios, 1.5, 0.25), [1.5, 4 / 7, 1, 1.5, 1.5, 0])


def test_log_mixture_by_hand() -> None:
    """Shares 1/4 and 3/4 of 1 and 5: 4; of 1 and 1: 1; a policy that drew nothing does not count."""
    path_log_ratios = th.tensor([[1, 5], [1, 1], [math.e, 0]], dtype=th.float64).log()
    assert_values(est.log_mixture(path_log_ratios, vector([0.25, 0.75])).exp(), [4, 1, math.e / 4])
    assert_values(est.log_mixture(path_log_ratios, vector([1, 0])).exp(), [1, 1, math.e])
    assert_values(
        est.log_mixture(path_log_ratios + 1e4, vector([0.25, 0.75])) - 1e4, [math.log(4), 0, 1 - math.log(4)], 1e-9
    )
    assert est.log_mixture(path_log_ratios.float(), vector([0.25, 0.75])).dtype == th.float32


@pytest.mark.parametrize(
    ("importance", "weights", "expected"),
    [
        ("timestep", [1, 2, 4, 3], [0.4, 0.8, 1.6, 1.2]),
        ("trajectory", [4, 4, 4, 3], [8 / 7, 8 / 7, 8 / 7, 6 / 7]),
        # step 1: (2 + 3) / 2, step 2: (4 + 3) / 2, the second episode having ended with a weight of 3
        ("per_decision", [1, 2, 4, 3], [0.5, 0.8, 8 / 7, 1.5]),
        ("none", [1, 1, 1, 1], [1, 1, 1, 1]),
        ("timestep", [0, 0, 0, 0], [0, 0, 0, 0]),
        ("trajectory", [0, 0, 0, 0], [0, 0, 0, 0]),
        ("per_decision", [1, 0, 0, 0], [2, 0, 0, 0]),
    ],
)
def test_self_normalised_weights_of_ragged_episodes(
    importance: est.Importance, weights: list[float], expected: list[float]
) -> None:
    """Episodes of 3 steps and of 1."""
    assert_values(est.self_normalized(vector(weights), index(3, 1), importance), expected)


def test_per_decision_credit_by_hand() -> None:
    """Weights 2, 3 and 5, rewards 1, 10 and 100, baselines 7, 4 and 1, gamma 1/2; episodes of 2 steps and of 1."""
    credit = est.per_decision_credit(vector([2, 3, 5]), vector([1, 10, 100]), vector([7, 4, 1]), index(2, 1), 0.5)
    assert_values(credit, [2 + 15 - 14, 30 - 12, 500 - 5])


@pytest.mark.parametrize("advantage", [-2.0, 0.0, 2.0])
@pytest.mark.parametrize("ratio", [0.5, 0.79, 0.81, 1.0, 1.19, 1.21, 3.0])
def test_clipped_surrogate_of_one_row(ratio: float, advantage: float) -> None:
    """Value and gradient at a range of 0.2: rho A and rho A score, unless rho is past the side to which A pushes it:
    then the value is that of the side and the gradient 0. A < 0 stops no rho above 1.2, A > 0 none below 0.8."""
    log_ratio = vector([math.log(ratio)]).requires_grad_()
    surrogate = est.clipped_surrogate(log_ratio, vector([advantage]), 0.2, 1.0)
    clipped = (advantage > 0 and ratio > 1.2) or (advantage < 0 and ratio < 0.8)
    side = 1.2 if ratio > 1 else 0.8
    assert_values(surrogate.detach(), (side if clipped else ratio) * advantage)
    (gradient,) = th.autograd.grad(surrogate, log_ratio)
    assert_values(gradient, [0.0 if clipped else ratio * advantage])
    unclipped = est.clipped_surrogate(log_ratio, vector([advantage]), 1e6, 1.0)
    assert th.autograd.grad(unclipped, log_ratio)[0].tolist() == [float(log_ratio.detach().exp()) * advantage]


def test_clipped_surrogate_of_a_batch() -> None:
    """(2 * 1 + 1.2 * 3 - 3 * 1) / 4, the weights being constants made of the same parameters."""
    log_ratios = vector([2, 3, 3]).log().requires_grad_()
    weights = vector([1, 3, -1]) + 0 * log_ratios + (log_ratios - log_ratios.detach())
    surrogate = est.clipped_surrogate(log_ratios, weights, 0.2, 4)
    assert_values(surrogate.detach(), (1.2 + 3.6 - 3) / 4)
    assert_values(th.autograd.grad(surrogate, log_ratios)[0], [0, 0, -0.75])


def test_kl_estimate_by_hand() -> None:
    """(2 - 1) - log 2, (1/2 - 1) + log 2, 0; and x^2 / 2 where rho is so close to 1 that rho - 1 - log rho cancels."""
    estimates = est.kl_estimate(vector([2, 0.5, 1]).log())
    assert_values(estimates, [1 - math.log(2), math.log(2) - 0.5, 0])
    assert_values(est.kl_estimate(vector([1e-6, -1e-6])) * 1e12, [0.5, 0.5], 1e-5)


@pytest.mark.parametrize(
    ("weights", "expected"),
    [
        ([1, 1, 1, 1], 1),
        ([7, 7], 1),  # the scale of the weights does not matter
        ([0, 0, 0, 2], 0.25),
        ([1, 3], 0.8),  # 16 / (2 * 10)
        ([0, 0], 0),
    ],
)
def test_effective_sample_size(weights: list[float], expected: float) -> None:
    assert_values(est.effective_sample_size(vector(weights)), expected)


# The noise


def test_gradient_variance_and_snr_by_hand() -> None:
    """g = (1, 0), (3, 4): mean (2, 2), tr Cov = 2 + 8 = 10, so a variance of 5 for the mean and an SNR of 8 / 5."""
    gradients = th.tensor([[1.0, 0.0], [3.0, 4.0]], dtype=th.float64)
    total, sq_norms = gradients.sum(0), gradients.square().sum(-1)
    assert_values(est.gradient_variance(total, sq_norms), 5)
    assert_values(est.gradient_snr(total, sq_norms), 1.6)


def test_covariance_trace_and_squared_norm_by_hand() -> None:
    """The same two, |sum|^2 = 32 and 1 + 25 in squares: tr Cov = 26 - 16 = 10, <g_1, g_2> = 3; and two samples at once,
    the second g = (1, 0), (-1, 0), (0, 2): tr Cov = (6 - 4/3) / 2 = 7/3, pairs -1, 0, 0."""
    sq_of_sum, sum_of_sq, n = vector([32, 4]), vector([26, 6]), vector([2, 3])
    assert_values(est.covariance_trace(sq_of_sum, sum_of_sq, n), [10, 7 / 3])
    assert_values(est.mean_sq_norm(sq_of_sum, sum_of_sq, n), [3, -1 / 3])
    for statistic in (est.covariance_trace, est.mean_sq_norm):
        assert_values(statistic(vector([1]), vector([1]), 1), [math.nan])


def test_mean_pairwise_cosine_by_hand() -> None:
    """Unit vectors (1, 0), (0, 1), (0, -1): cosines 0, 0, -1. Of two equal ones 1, of one alone unknown."""
    assert_values(est.mean_pairwise_cosine(vector([1]), 3), [-1 / 3])
    assert_values(est.mean_pairwise_cosine(vector([4]), 2), [1])
    assert_values(est.mean_pairwise_cosine(vector([1]), 1), [math.nan])


def test_noise_scale_by_hand() -> None:
    """tr Cov 10 and |E g|^2 3: 10/3 episodes make noise and signal equal. No signal found: no batch is large enough."""
    assert_values(est.noise_scale(vector([10, 10]), vector([3, -1])), [10 / 3, math.inf])


def test_gradient_variance_and_snr_without_noise_or_with_one_episode() -> None:
    """Equal gradients: variance 0, SNR infinite. One episode: neither is known."""
    total, sq_norms = vector([3, 6]), vector([5, 5, 5])
    assert_values(est.gradient_variance(total, sq_norms), 0)
    assert_values(est.gradient_snr(total, sq_norms), math.inf)
    for statistic in (est.gradient_variance, est.gradient_snr):
        assert_values(statistic(vector([1, 2]), vector([5])), math.nan)


def test_gradient_variance_is_not_negative_where_rounding_would_make_it_so() -> None:
    """1.1 has no exact float32: three equal gradients whose squares sum to less than the square of their sum."""
    gradients = th.full((3,), 1.1)
    total = gradients.sum()[None]
    assert float(gradients.square().sum() - total.square().sum() / 3) < 0
    assert_values(est.gradient_variance(total, gradients.square()), 0)


# What is refused

FLAT, COLUMN, SHORT = vector([1, 2, 3]), vector([1, 2, 3])[:, None], vector([1, 2])
EPISODES = index(2, 1)

# Each argument that has one entry a row (or one an episode), with a function of it.
Argument = tuple[str, Callable[[th.Tensor], Any]]
ROW_ARGUMENTS: list[Argument] = [
    ("weights", lambda x: est.score_function_surrogate(FLAT, x, 1.0)),
    ("values", lambda x: est.segment_sum(x, EPISODES)),
    ("values", lambda x: est.discounted_suffix_sum(x, EPISODES, 0.9)),
    ("rewards", lambda x: est.reward_to_go(x, EPISODES, 0.9)),
    ("rewards", lambda x: est.total_return(x, EPISODES, 0.9)),
    ("rewards", lambda x: est.generalized_advantage(x, FLAT, EPISODES, 0.9, 0.9)),
    ("values", lambda x: est.generalized_advantage(FLAT, x, EPISODES, 0.9, 0.9)),
    ("rewards", lambda x: est.vtrace_advantage(x, FLAT, FLAT, EPISODES, 0.9, 0.9)),
    ("values", lambda x: est.vtrace_advantage(FLAT, x, FLAT, EPISODES, 0.9, 0.9)),
    ("log_ratios", lambda x: est.vtrace_advantage(FLAT, FLAT, x, EPISODES, 0.9, 0.9)),
    ("discount", lambda x: est.discounted_suffix_sum(FLAT, EPISODES, x)),
    ("returns", lambda x: est.batch_mean(x, EPISODES)),
    ("returns", lambda x: est.time_mean(x, EPISODES)),
    ("returns", lambda x: est.leave_one_out(x, EPISODES)),
    ("returns", lambda x: est.time_leave_one_out(x, EPISODES)),
    ("behaviour_log_prob", lambda x: est.log_ratio(FLAT, x)),
    ("values", lambda x: est.segment_cumulative_sum(x, EPISODES)),
    ("values", lambda x: est.path_log_ratio(x, EPISODES, "per_decision")),
    ("values", lambda x: est.path_log_ratio(x, EPISODES, "trajectory")),
    ("rewards", lambda x: est.per_decision_credit(FLAT, x, FLAT, EPISODES, 0.9)),
    ("baseline", lambda x: est.per_decision_credit(FLAT, FLAT, x, EPISODES, 0.9)),
    ("weights", lambda x: est.clipped_surrogate(FLAT, x, 0.2, 1.0)),
    ("episode", lambda x: est.EpisodeIndex(th.tensor([2, 1]), x.long(), th.tensor([0, 1, 0]))),
    ("step", lambda x: est.EpisodeIndex(th.tensor([2, 1]), th.tensor([0, 0, 1]), x.long())),
]
EPISODE_ARGUMENTS: list[Argument] = [
    ("last_values", lambda x: est.reward_to_go(FLAT, EPISODES, 0.9, x)),
    ("last_values", lambda x: est.total_return(FLAT, EPISODES, 0.9, x)),
    ("last_values", lambda x: est.generalized_advantage(FLAT, FLAT, EPISODES, 0.9, 0.9, x)),
    ("last_values", lambda x: est.vtrace_advantage(FLAT, FLAT, FLAT, EPISODES, 0.9, 0.9, x)),
    ("dots", lambda x: est.optimal_constant(x, SHORT)),
]


@pytest.mark.parametrize(("name", "function"), ROW_ARGUMENTS)
def test_a_wrong_number_of_rows_is_refused(name: str, function: Callable[[th.Tensor], Any]) -> None:
    """(3, 1) against (3,) would broadcast to (3, 3); 2 rows are not 3."""
    with pytest.raises(ValueError, match=rf"^{name} must have shape \(3,\), got \(3, 1\), flatten it first$"):
        function(COLUMN)
    with pytest.raises(ValueError, match=rf"^{name} must have shape \(3,\), got \(2,\)$"):
        function(SHORT)


@pytest.mark.parametrize(("name", "function"), EPISODE_ARGUMENTS)
def test_a_wrong_number_of_episodes_is_refused(name: str, function: Callable[[th.Tensor], Any]) -> None:
    with pytest.raises(ValueError, match=rf"^{name} must have shape \(2,\), got \(2, 1\), flatten it first$"):
        function(SHORT[:, None])
    with pytest.raises(ValueError, match=rf"^{name} must have shape \(2,\), got \(3,\)$"):
        function(FLAT)


def test_a_log_prob_for_each_action_dimension_is_refused() -> None:
    """(n, n) per-dimension log-probs and n weights would broadcast without a word."""
    with pytest.raises(ValueError, match=r"joint log-probability of each action, shape \(n_rows,\), got \(3, 3\)"):
        est.score_function_surrogate(th.zeros(3, 3), FLAT, 1.0)


@pytest.mark.parametrize("shape", [(3, 1), (3, 3), ()])
def test_a_log_prob_that_is_no_vector_has_no_ratio(shape: tuple[int, ...]) -> None:
    """Against (3,) each of these would broadcast: to (3, 3), (3, 3) and (3,)."""
    with pytest.raises(ValueError, match="log_prob must"):
        est.log_ratio(th.zeros(shape, dtype=th.float64), FLAT)
    with pytest.raises(ValueError, match=r"^log_ratios must have shape \(n_rows,\), got \("):
        est.clipped_surrogate(th.zeros(shape, dtype=th.float64), FLAT, 0.2, 1.0)


@pytest.mark.parametrize("weights", [COLUMN, SHORT])
def test_the_weights_of_a_credit_have_one_entry_a_row(weights: th.Tensor) -> None:
    with pytest.raises(ValueError, match=r"must have shape "):
        est.per_decision_credit(weights, FLAT, FLAT, EPISODES, 0.9)


@pytest.mark.parametrize(
    ("shape", "n_shares"), [((3,), (3,)), ((3, 2), (3,)), ((2, 3), (2,)), ((3, 2), (2, 1)), ((3, 2), ()), ((), ())]
)
def test_a_mixture_has_a_column_and_a_share_for_each_policy(shape: tuple[int, ...], n_shares: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"^path_log_ratios must have shape \(n_rows, n_policies\) and shares \(n_pol"):
        est.log_mixture(th.zeros(shape), th.ones(n_shares))


def test_an_unknown_level_is_refused() -> None:
    message = r"^importance must be one of 'timestep', 'per_decision', 'trajectory', 'none', got 'step'$"
    for function in (est.path_log_ratio, est.self_normalized):
        with pytest.raises(ValueError, match=message):
            function(FLAT, EPISODES, "step")  # type: ignore[arg-type]


@pytest.mark.parametrize("importance", LEVELS)
def test_products_over_the_path_need_the_episodes(importance: est.Importance) -> None:
    """Levels that look at single rows do not."""
    functions: list[Callable[..., th.Tensor]] = [est.path_log_ratio, est.self_normalized]
    for function, verb in zip(functions, ["multiplies", "normalises"], strict=True):
        if importance in est.EPISODE_LEVELS:
            message = rf"^importance='{importance}' {verb} over whole episodes: give their EpisodeIndex$"
            with pytest.raises(ValueError, match=message):
                function(FLAT, None, importance)
        else:
            assert_values(function(FLAT, None, importance), function(FLAT, EPISODES, importance).tolist())


@pytest.mark.parametrize("max_weight", [0.0, -1.0, math.nan])
def test_a_limit_of_the_weights_is_positive(max_weight: float) -> None:
    with pytest.raises(ValueError, match=rf"^max_weight must be a number > 0, got {max_weight}$"):
        est.importance_weights(FLAT, max_weight)


@pytest.mark.parametrize("defensive_coef", [-0.1, 1.0, 2.0, math.nan])
def test_a_share_of_the_target_is_below_one(defensive_coef: float) -> None:
    with pytest.raises(ValueError, match=rf"^defensive_coef must be a number in \[0, 1\), got {defensive_coef}$"):
        est.importance_weights(FLAT, defensive_coef=defensive_coef)


@pytest.mark.parametrize("clip_range", [-0.2, math.nan])
def test_a_clip_range_is_not_negative(clip_range: float) -> None:
    with pytest.raises(ValueError, match=rf"^clip_range must be a number >= 0, got {clip_range}$"):
        est.clipped_surrogate(FLAT, FLAT, clip_range, 1.0)


@pytest.mark.parametrize("lengths", [th.tensor([2, 0]), th.tensor([-1, 4]), th.tensor([[2, 1]])])
def test_lengths_are_a_vector_of_at_least_one_step_each(lengths: th.Tensor) -> None:
    with pytest.raises(ValueError, match=r"^lengths must be a vector of integers >= 1, got "):
        est.EpisodeIndex(lengths, th.tensor([0, 0, 1]), th.tensor([0, 1, 0]))


def test_leave_one_out_needs_another_episode() -> None:
    with pytest.raises(ValueError, match=r"^leave_one_out needs at least 2 episodes, got 1: write baseline='none' or"):
        est.leave_one_out(FLAT, index(3))


def test_an_unknown_reduction_is_refused() -> None:
    with pytest.raises(ValueError, match=r"^loss_reduction must be 'step', 'episode' or 'mean_length', got 'mean'$"):
        est.loss_divisor(EPISODES, "mean")  # type: ignore[arg-type]


@pytest.mark.parametrize("mean_length", [None, 0.0, -2.0, math.nan])
def test_mean_length_needs_its_length(mean_length: float | None) -> None:
    with pytest.raises(ValueError, match=rf"^loss_reduction='mean_length' needs a mean_length > 0, got {mean_length}$"):
        est.loss_divisor(EPISODES, "mean_length", mean_length)
