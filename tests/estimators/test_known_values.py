"""Numbers worked out by hand, and every argument that is refused. Also the checks of ``test_mutations.py``."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch as th

from sb3_pg import estimators as est


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
    assert_values(est.BATCH_BASELINES[baseline](vector([0, 0, 0, 1]), index(1, 1, 1, 1)), expected)


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
    assert_values(est.BATCH_BASELINES[baseline](vector([6, 5, 1, 7, 2, 1]), index(3, 1, 2)), expected)


def test_baselines_of_one_episode() -> None:
    """The mean is its own return; no others are alive with it."""
    returns = vector([3, 1])
    assert_values(est.batch_mean(returns, index(2)), [3, 3])
    assert_values(est.time_mean(returns, index(2)), [3, 1])
    assert_values(est.time_leave_one_out(returns, index(2)), [0, 0])


def test_optimal_constant_by_hand() -> None:
    """(1 * 6 + 4 * 1) / (1 + 4) = 2, with the return at each episode's first row; 0 where every score vanishes."""
    returns, episodes = vector([6, 5, 1]), index(2, 1)
    assert_values(est.optimal_constant(returns, episodes, vector([1, 4])), [2, 2, 2])
    assert_values(est.optimal_constant(returns, episodes, vector([0, 0])), [0, 0, 0])


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


def test_ratios_go_through_log_space() -> None:
    """0.6 / 0.3 = 2; 50 steps of 1.08 make 46.9, of 0.95 make 0.077."""
    assert_values(est.timestep_weights(vector([0.6]).log(), vector([0.3]).log()), [2])
    behaviour = th.full((100,), 0.5, dtype=th.float64)
    ratio = vector([1.08] * 50 + [0.95] * 50)
    new, old = (est.segment_sum(p.log(), index(50, 50)) for p in (behaviour * ratio, behaviour))
    weights = est.timestep_weights(new, old)
    assert_values(weights[:1], [46.9], 0.05)
    assert_values(weights[1:], [0.077], 0.0005)
    assert_values(est.timestep_weights(vector([-2000.0]), vector([-2000.0 - math.log(2)])), [2], 1e-9)


def test_truncated_weights() -> None:
    """min(rho, c): 2 -> 1.5, 0.5 stays; a ratio beyond every float is c, and no limit leaves it infinite."""
    log_prob, behaviour = vector([0.6, 0.2]).log(), vector([0.3, 0.4]).log()
    assert_values(est.timestep_weights(log_prob, behaviour, 1.5), [1.5, 0.5])
    assert_values(est.timestep_weights(log_prob, behaviour), [2, 0.5])
    assert_values(est.timestep_weights(vector([0.0]), vector([-1e6]), 5.0), [5])
    assert_values(est.timestep_weights(vector([0.0]), vector([-1e6])), [math.inf])


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
SURROGATE_WEIGHTS: Argument = ("weights", lambda x: est.score_function_surrogate(FLAT, x, 1.0))
ROW_ARGUMENTS: list[Argument] = [
    SURROGATE_WEIGHTS,
    ("values", lambda x: est.segment_sum(x, EPISODES)),
    ("values", lambda x: est.discounted_suffix_sum(x, EPISODES, 0.9)),
    ("rewards", lambda x: est.reward_to_go(x, EPISODES, 0.9)),
    ("rewards", lambda x: est.total_return(x, EPISODES, 0.9)),
    ("rewards", lambda x: est.generalized_advantage(x, FLAT, EPISODES, 0.9, 0.9)),
    ("values", lambda x: est.generalized_advantage(FLAT, x, EPISODES, 0.9, 0.9)),
    ("returns", lambda x: est.batch_mean(x, EPISODES)),
    ("returns", lambda x: est.time_mean(x, EPISODES)),
    ("returns", lambda x: est.leave_one_out(x, EPISODES)),
    ("returns", lambda x: est.time_leave_one_out(x, EPISODES)),
    ("returns", lambda x: est.optimal_constant(x, EPISODES, SHORT)),
    ("behaviour_log_prob", lambda x: est.timestep_weights(FLAT, x)),
    ("episode", lambda x: est.EpisodeIndex(th.tensor([2, 1]), x.long(), th.tensor([0, 1, 0]))),
    ("step", lambda x: est.EpisodeIndex(th.tensor([2, 1]), th.tensor([0, 0, 1]), x.long())),
]
EPISODE_ARGUMENTS: list[Argument] = [
    ("last_values", lambda x: est.reward_to_go(FLAT, EPISODES, 0.9, x)),
    ("last_values", lambda x: est.total_return(FLAT, EPISODES, 0.9, x)),
    ("last_values", lambda x: est.generalized_advantage(FLAT, FLAT, EPISODES, 0.9, 0.9, x)),
    ("score_sq_norms", lambda x: est.optimal_constant(FLAT, EPISODES, x)),
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
        est.timestep_weights(th.zeros(shape, dtype=th.float64), FLAT)


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
