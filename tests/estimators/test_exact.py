"""The expectation of every estimate, exactly: each batch that a small MDP can give is enumerated with its probability.

Everything is in double precision and equal to 1e-9 where ``equal`` is claimed. What is claimed to be *biased* is
shown to be off by far more than that. The tests are also the checks of ``test_mutations.py``.
"""

from __future__ import annotations

import itertools
import math

import pytest
import torch as th

from sb3_pg import estimators as est
from tests.helpers.enumeration import (
    ONE,
    PAIRS,
    SMALL,
    Batch,
    Enumeration,
    Weights,
    assert_exact,
    direction_error,
    joint_log_prob,
    logits,
    other_logits,
    policy_gradient_terms,
    relative_error,
    weights,
)
from tests.helpers.tabular import TabularMDP

BATCHES = [pytest.param(PAIRS, 2, id="N=2"), pytest.param(SMALL, 3, id="N=3"), pytest.param(SMALL, 4, id="N=4")]


def only_step(t: int, weights_of: Weights) -> Weights:
    """The weights at step t, 0 elsewhere: that step's contribution to the estimate."""
    return lambda batch: th.where(batch.episodes.step == t, weights_of(batch), 0.0)


# No baseline


@pytest.mark.parametrize(
    ("returns", "gamma", "discount_gradient"),
    [("total", 1.0, False), ("total", 0.8, False), ("reward_to_go", 1.0, False), ("reward_to_go", 0.8, True)],
)
def test_without_a_baseline_the_gradient_is_exact(returns: str, gamma: float, discount_gradient: bool) -> None:
    """E = grad J for the total return at any gamma, and for the reward-to-go with its gamma^t."""
    estimate = Enumeration(ONE, logits(ONE)).expected_gradient(weights(returns, gamma, "none", discount_gradient))
    assert_exact(estimate, ONE.objective_gradient(logits(ONE), gamma))


def test_reward_to_go_without_its_discount_factors_is_another_direction() -> None:
    """With gamma < 1 the habit of leaving gamma^t out is no gradient of the discounted objective, nor a multiple."""
    estimate = Enumeration(ONE, logits(ONE)).expected_gradient(weights("reward_to_go", 0.8))
    exact = ONE.objective_gradient(logits(ONE), 0.8)
    assert relative_error(estimate, exact) > 0.1
    assert direction_error(estimate, exact) > 0.02


@pytest.mark.parametrize("n_episodes", [2, 3])
def test_the_number_of_episodes_changes_no_expectation(n_episodes: int) -> None:
    """(1/N) sum over independent episodes: the expectation is that of one."""
    estimate = Enumeration(SMALL, logits(SMALL)).expected_gradient(weights("reward_to_go", 1.0), n_episodes)
    assert_exact(estimate, SMALL.objective_gradient(logits(SMALL), 1.0))


# Baselines of the batch


@pytest.mark.parametrize(("returns", "gamma"), [("total", 1.0), ("total", 0.8), ("reward_to_go", 1.0)])
@pytest.mark.parametrize(("mdp", "n_episodes"), BATCHES)
def test_batch_mean_shrinks_the_gradient_and_keeps_its_direction(
    mdp: TabularMDP, n_episodes: int, returns: str, gamma: float
) -> None:
    """E = (1 - 1/N) grad J: the episode's own return is in the mean."""
    estimate = Enumeration(mdp, logits(mdp)).expected_gradient(weights(returns, gamma, "batch_mean"), n_episodes)
    assert_exact(estimate, (1 - 1 / n_episodes) * mdp.objective_gradient(logits(mdp), gamma))


def test_batch_mean_of_the_discounted_reward_to_go_is_biased_in_direction() -> None:
    """Why the fact above says "undiscounted": step t's own share of the mean comes with another power of gamma."""
    estimate = Enumeration(PAIRS, logits(PAIRS)).expected_gradient(weights("reward_to_go", 0.5, "batch_mean", True), 2)
    assert direction_error(estimate, PAIRS.objective_gradient(logits(PAIRS), 0.5)) > 1e-3


@pytest.mark.parametrize(("mdp", "n_episodes"), BATCHES)
def test_time_mean_shrinks_every_step_by_its_own_factor(mdp: TabularMDP, n_episodes: int) -> None:
    """E of step t's contribution = (1 - [1 - (1-q_t)^N] / (N q_t)) times the exact one, q_t = P(alive at t)."""
    theta = logits(mdp)
    enumeration, terms = Enumeration(mdp, theta), policy_gradient_terms(mdp, theta, 1.0)
    weights_of = weights("reward_to_go", 1.0, "time_mean")
    shrinkage = 1 - (1 - (1 - mdp.alive(theta)) ** n_episodes) / (n_episodes * mdp.alive(theta))
    for t, factor in enumerate(shrinkage):
        assert_exact(enumeration.expected_gradient(only_step(t, weights_of), n_episodes), factor * terms[t])
    assert bool((shrinkage.diff() < -0.05).all()), "later steps are alive less often, so they shrink more"


def test_time_mean_is_biased_in_direction_where_lengths_differ() -> None:
    estimate = Enumeration(PAIRS, logits(PAIRS)).expected_gradient(weights("reward_to_go", 1.0, "time_mean"), 2)
    assert direction_error(estimate, PAIRS.objective_gradient(logits(PAIRS), 1.0)) > 0.1


@pytest.mark.parametrize("baseline", ["leave_one_out", "time_leave_one_out"])
@pytest.mark.parametrize(
    ("returns", "gamma", "discount_gradient"),
    [("total", 1.0, False), ("total", 0.8, False), ("reward_to_go", 1.0, False), ("reward_to_go", 0.8, True)],
)
@pytest.mark.parametrize(("mdp", "n_episodes"), BATCHES[:2])
def test_leave_one_out_is_exact(
    mdp: TabularMDP, n_episodes: int, returns: str, gamma: float, discount_gradient: bool, baseline: str
) -> None:
    """E = grad J: the others' returns know nothing of this episode."""
    weights_of = weights(returns, gamma, baseline, discount_gradient)
    estimate = Enumeration(mdp, logits(mdp)).expected_gradient(weights_of, n_episodes)
    assert_exact(estimate, mdp.objective_gradient(logits(mdp), gamma))


@pytest.mark.parametrize("discount_gradient", [False, True])
@pytest.mark.parametrize("returns", ["total", "reward_to_go"])
def test_optimal_constant_minimises_the_variance(returns: str, discount_gradient: bool) -> None:
    """Over the whole distribution it is where the derivative of the variance of R - b S vanishes, whatever multiplies
    the scores; with total returns and nothing else it is Greensmith's, with rewards to go his is not as good."""
    enumeration = Enumeration(PAIRS, logits(PAIRS))
    batch, probability = enumeration.whole(), enumeration.probability
    estimator = est.total_return if returns == "total" else est.reward_to_go
    earned = estimator(batch.rewards, batch.episodes, 0.9)
    factors = est.discount_factors(batch.episodes, 0.9 if discount_gradient else 1.0, th.float64)
    with_returns, alone = batch.score_sums(factors * earned), batch.score_sums(factors)
    dots, sq_norms = probability * (with_returns * alone).sum(-1), probability * alone.square().sum(-1)
    constant = est.optimal_constant(dots, sq_norms)

    def variance(b: th.Tensor) -> th.Tensor:
        gradients = with_returns - b * alone
        return probability @ gradients.square().sum(-1) - (probability @ gradients).square().sum()

    b = constant.clone().requires_grad_()
    (slope,) = th.autograd.grad(variance(b), b)
    assert_exact(slope, th.zeros_like(slope))
    assert variance(constant) < min(variance(constant + 0.1), variance(constant - 0.1))
    assert variance(constant) < variance(th.zeros_like(constant))
    greensmith = sq_norms @ earned[batch.episodes.first_row] / sq_norms.sum()
    is_greensmiths = returns == "total"
    assert (abs(float(variance(greensmith) - variance(constant))) < 1e-12) == is_greensmiths


def test_optimal_constant_of_the_same_batch_is_biased_less_the_more_episodes() -> None:
    """It shrinks the gradient, since b knows the episode's own return: the bias is below 1.6 |grad J| / N and falls
    with N; the direction stays within 5 percent."""
    enumeration, exact = Enumeration(SMALL, logits(SMALL)), SMALL.objective_gradient(logits(SMALL), 1.0)
    estimates = {n: enumeration.expected_gradient(weights("total", 1.0, "optimal"), n) for n in (2, 3, 4)}
    bias = {n: relative_error(estimate, exact) for n, estimate in estimates.items()}
    assert 0.1 < bias[4] < bias[3] < bias[2]
    assert all(n * value < 1.6 for n, value in bias.items())
    assert all(direction_error(estimate, exact) < 0.05 for estimate in estimates.values())


# A critic


@pytest.mark.parametrize("gamma", [1.0, 0.8])
def test_any_value_table_is_an_unbiased_baseline(gamma: float) -> None:
    """E = grad J with arbitrary values of the state (and of the clock)."""
    table = 10 * th.randn(ONE.horizon, ONE.n_states, generator=th.Generator().manual_seed(0), dtype=th.float64)
    factors, returns = weights("reward_to_go", gamma, "none", True), Enumeration(ONE, logits(ONE))
    estimate = returns.expected_gradient(
        lambda batch: factors(batch) - est.discount_factors(batch.episodes, gamma, th.float64) * batch.at(table)
    )
    assert_exact(estimate, ONE.objective_gradient(logits(ONE), gamma))


def test_a_baseline_that_depends_on_the_action_is_biased() -> None:
    """Q(s, a) itself, the best guess of the return there is, leaves nothing of the gradient."""
    values = ONE.action_values(logits(ONE), 1.0)
    weights_of = weights("reward_to_go", 1.0)
    estimate = Enumeration(ONE, logits(ONE)).expected_gradient(
        lambda batch: weights_of(batch) - values[batch.episodes.step, batch.states, batch.actions]
    )
    assert_exact(estimate, th.zeros_like(estimate))
    assert float(ONE.objective_gradient(logits(ONE), 1.0).norm()) > 0.1


@pytest.mark.parametrize("gae_lambda", [0.0, 0.6, 1.0])
@pytest.mark.parametrize("gamma", [1.0, 0.8])
def test_gae_with_the_exact_values_is_exact(gae_lambda: float, gamma: float) -> None:
    """E = grad J for every lambda when V is the policy's own value function (with gamma^t where gamma < 1)."""
    table = ONE.state_values(logits(ONE), gamma)

    def of(batch: Batch) -> th.Tensor:
        advantage = est.generalized_advantage(batch.rewards, batch.at(table), batch.episodes, gamma, gae_lambda)
        return advantage * est.discount_factors(batch.episodes, gamma, th.float64)

    assert_exact(Enumeration(ONE, logits(ONE)).expected_gradient(of), ONE.objective_gradient(logits(ONE), gamma))


def test_gae_with_wrong_values_is_biased_unless_lambda_is_one() -> None:
    table = ONE.state_values(logits(ONE), 1.0) + th.tensor([1.0, -1.0, 0.0], dtype=th.float64)
    enumeration, exact = Enumeration(ONE, logits(ONE)), ONE.objective_gradient(logits(ONE), 1.0)
    estimates = [
        enumeration.expected_gradient(
            lambda batch, gae_lambda=gae_lambda: est.generalized_advantage(  # type: ignore[misc]
                batch.rewards, batch.at(table), batch.episodes, 1.0, gae_lambda
            )
        )
        for gae_lambda in (0.5, 1.0)
    ]
    assert relative_error(estimates[0], exact) > 0.05
    assert_exact(estimates[1], exact)


def test_gae_between_its_two_ends() -> None:
    """lambda = 1 is the reward-to-go minus V, lambda = 0 the TD error, at every row of the 258 trajectories."""
    batch = Enumeration(ONE, logits(ONE)).whole()
    values = batch.at(ONE.state_values(other_logits(ONE), 0.9) + 1)
    at_end = th.ones(batch.episodes.n_episodes, dtype=th.float64)
    monte_carlo, td = (
        est.generalized_advantage(batch.rewards, values, batch.episodes, 0.9, gae_lambda, at_end)
        for gae_lambda in (1.0, 0.0)
    )
    assert_exact(monte_carlo, est.reward_to_go(batch.rewards, batch.episodes, 0.9, at_end) - values)
    last = set(batch.episodes.last_row.tolist())
    next_values = [1.0 if row in last else float(values[row + 1]) for row in range(batch.episodes.n_rows)]
    assert_exact(td, batch.rewards + 0.9 * th.tensor(next_values, dtype=th.float64) - values)


# Advantages of one policy from the steps of another


def retraced(gamma: float, gae_lambda: float, table: th.Tensor, max_ratio: float) -> Weights:
    """rho_t gamma^t A_t of the policy theta, its advantages by V-trace."""

    def of(batch: Batch) -> th.Tensor:
        log_ratios = (batch.log_prob - batch.behaviour_log_prob).detach()
        args = (batch.episodes, gamma, gae_lambda)
        advantage = est.vtrace_advantage(batch.rewards, batch.at(table), log_ratios, *args, max_ratio=max_ratio)
        return log_ratios.exp() * advantage * est.discount_factors(batch.episodes, gamma, th.float64)

    return of


@pytest.mark.parametrize("gamma", [1.0, 0.8])
def test_vtrace_without_a_limit_is_the_advantage_of_theta_whatever_v_is(gamma: float) -> None:
    """E = sum_t gamma^t E_{s ~ d_old} [sum_a grad pi_theta Q_theta(s,a)]: the states are the old policy's, the rest of
    the episode is theta's. With the returns that the old policy earned it would be Q_old."""
    old, theta = logits(ONE), other_logits(ONE)
    table = ONE.state_values(old, gamma) + th.tensor([1.0, -1.0, 0.5], dtype=th.float64)
    estimate = Enumeration(ONE, old, theta).expected_gradient(retraced(gamma, 1.0, table, math.inf))
    assert_exact(estimate, policy_gradient_terms(ONE, old, gamma, theta, continued_by=theta).sum(0))
    stale = policy_gradient_terms(ONE, old, gamma, theta).sum(0)
    assert relative_error(estimate, stale) > 0.01


@pytest.mark.parametrize("gae_lambda", [0.0, 0.7, 1.0])
def test_vtrace_with_the_exact_values_of_theta_is_exact_for_every_lambda(gae_lambda: float) -> None:
    old, theta = logits(ONE), other_logits(ONE)
    exact = policy_gradient_terms(ONE, old, 0.8, theta, continued_by=theta).sum(0)
    weights_of = retraced(0.8, gae_lambda, ONE.state_values(theta, 0.8), math.inf)
    assert_exact(Enumeration(ONE, old, theta).expected_gradient(weights_of), exact)


def test_truncated_ratios_are_biased_where_they_are_used() -> None:
    """At lambda = 0 none is, and with V of theta that is exact; above it the trace is cut."""
    old, theta = logits(ONE), other_logits(ONE)
    exact = policy_gradient_terms(ONE, old, 0.8, theta, continued_by=theta).sum(0)
    table, enumeration = ONE.state_values(theta, 0.8), Enumeration(ONE, old, theta)
    assert_exact(enumeration.expected_gradient(retraced(0.8, 0.0, table, 1.0)), exact)
    assert relative_error(enumeration.expected_gradient(retraced(0.8, 1.0, table, 1.0)), exact) > 1e-3


def test_weighted_targets_average_to_the_value_of_theta() -> None:
    """argmin_v E_old[rho (v - V - A)^2] at every step and state is V of theta: what a critic of all batches learns."""
    old, theta = logits(ONE), other_logits(ONE)
    enumeration = Enumeration(ONE, old, theta)
    batch, exact = enumeration.whole(), ONE.state_values(theta, 0.8)
    table = ONE.state_values(old, 0.8) + th.tensor([1.0, -1.0, 0.5], dtype=th.float64)
    log_ratios = (batch.log_prob - batch.behaviour_log_prob).detach()
    advantage = est.vtrace_advantage(
        batch.rewards, batch.at(table), log_ratios, batch.episodes, 0.8, 1.0, max_ratio=math.inf
    )
    weight = enumeration.probability[batch.episodes.episode] * log_ratios.exp()
    places = (batch.episodes.step, batch.states)
    sums = th.zeros_like(exact).index_put(places, weight * (batch.at(table) + advantage), accumulate=True)
    mass = th.zeros_like(exact).index_put(places, weight, accumulate=True)
    assert_exact((sums / mass)[mass > 0], exact[mass > 0])


# An episode at the edge


def cut(enumeration: Enumeration, first: int, end: int) -> tuple[Batch, th.Tensor, th.Tensor]:
    """The steps first .. end-1 of every trajectory that has some, their row numbers in ``whole()``, and whether each
    trajectory was cut short."""
    whole = enumeration.whole()
    rows = th.nonzero((whole.episodes.step >= first) & (whole.episodes.step < end)).flatten()
    kept = whole.episodes.lengths > first
    lengths = whole.episodes.lengths[kept].clamp(max=end) - first
    episodes = est.EpisodeIndex.from_lengths(lengths, first_step=th.full_like(lengths, first))
    parts = (whole.states, whole.actions, whole.rewards, whole.behaviour_log_prob, whole.log_prob, whole.scores)
    return Batch(episodes, *(part[rows] for part in parts)), kept, (whole.episodes.lengths > end)[kept]


@pytest.mark.parametrize("gamma", [1.0, 0.8])
@pytest.mark.parametrize("returns", ["reward_to_go", "gae"])
def test_bootstrapping_a_cut_episode_with_the_exact_value_changes_nothing(returns: str, gamma: float) -> None:
    """Episodes cut after 2 steps, + gamma^k V(s_cut): E is the exact share of steps 0 and 1. Without V it is not."""
    theta = logits(ONE)
    enumeration, table = Enumeration(ONE, theta), ONE.state_values(theta, gamma)
    batch, _, was_cut = cut(enumeration, 0, 2)
    third = th.tensor([one.states[2] if len(one) > 2 else 0 for one in enumeration.trajectories])
    last_values = th.where(was_cut, table[2, third], 0.0)

    def estimate(last: th.Tensor | None) -> th.Tensor:
        if returns == "gae":
            worth = est.generalized_advantage(batch.rewards, batch.at(table), batch.episodes, gamma, 0.7, last)
        else:
            worth = est.reward_to_go(batch.rewards, batch.episodes, gamma, last)
        worth = worth * est.discount_factors(batch.episodes, gamma, th.float64)
        share = enumeration.probability[batch.episodes.episode]
        return enumeration.gradient(est.score_function_surrogate(batch.log_prob, share * worth, 1.0))

    exact = policy_gradient_terms(ONE, theta, gamma)[:2].sum(0)
    assert_exact(estimate(last_values), exact)
    assert relative_error(estimate(None), exact) > 0.02


def test_an_episode_whose_beginning_is_missing_counts_from_its_true_step() -> None:
    """Rows from step 1 on, with first_step = 1: gamma^t is that of the episode, and E the exact share of steps 1, 2."""
    theta = logits(ONE)
    enumeration = Enumeration(ONE, theta)
    batch, kept, _ = cut(enumeration, 1, ONE.horizon)
    worth = weights("reward_to_go", 0.8, "none", True)(batch)
    share = enumeration.probability[kept][batch.episodes.episode]
    estimate = enumeration.gradient(est.score_function_surrogate(batch.log_prob, share * worth, 1.0))
    assert_exact(estimate, policy_gradient_terms(ONE, theta, 0.8)[1:].sum(0))


# The divisor


@pytest.mark.parametrize(("mdp", "n_episodes"), [(PAIRS, 1), (PAIRS, 2), (SMALL, 3)])
def test_only_a_divisor_that_does_not_know_the_lengths_keeps_the_direction(mdp: TabularMDP, n_episodes: int) -> None:
    """ "episode" is grad J, "mean_length" is grad J over that length, "step" is no multiple of it."""
    enumeration, exact = Enumeration(mdp, logits(mdp)), mdp.objective_gradient(logits(mdp), 1.0)
    weights_of = weights("reward_to_go", 1.0)
    assert_exact(enumeration.expected_gradient(weights_of, n_episodes, "episode"), exact)
    assert_exact(enumeration.expected_gradient(weights_of, n_episodes, "mean_length", 2.5), exact / 2.5)
    assert direction_error(enumeration.expected_gradient(weights_of, n_episodes, "step"), exact) > 0.03


# The surrogate


def test_the_log_prob_of_an_action_is_the_joint_one() -> None:
    """Two binary action dimensions, all four actions enumerated under another policy: E[rho r score] = grad J."""
    behaviour = th.tensor([0.3, -0.4], dtype=th.float64)
    theta = th.tensor([0.8, 0.5], dtype=th.float64, requires_grad=True)
    actions = th.tensor(list(itertools.product([0.0, 1.0], repeat=2)), dtype=th.float64)
    rewards = th.tensor([1.0, -2.0, 0.5, 3.0], dtype=th.float64)
    old, new = (th.distributions.Bernoulli(logits=one).log_prob(actions) for one in (behaviour, theta))
    ratio = est.importance_weights(est.log_ratio(joint_log_prob(new), joint_log_prob(old)))
    probability = old.sum(-1).exp()
    surrogate = est.score_function_surrogate(joint_log_prob(new), probability * ratio * rewards, 1.0)
    (estimate,) = th.autograd.grad(surrogate, theta, retain_graph=True)
    (exact,) = th.autograd.grad(new.sum(-1).exp() @ rewards, theta)
    assert_exact(estimate, exact)


@pytest.mark.parametrize("loss_reduction", ["episode", "step"])
def test_one_backward_pass_is_the_literal_loop(loss_reduction: est.LossReduction) -> None:
    """The N * T backward passes of ``g += A * grad(log_prob)`` give the same vector to a relative 1e-10, and so does
    one backward pass for each part of the batch, divided by the divisor of the whole."""
    generator = th.Generator().manual_seed(0)
    net = th.nn.Sequential(th.nn.Linear(3, 8), th.nn.Tanh(), th.nn.Linear(8, 4)).double()
    for parameter in net.parameters():
        th.nn.init.normal_(parameter, generator=generator)
    episodes = est.EpisodeIndex.from_lengths(th.tensor([4, 1, 7, 3, 5]))
    observations = th.randn(episodes.n_rows, 3, generator=generator, dtype=th.float64)
    actions = th.randint(4, (episodes.n_rows,), generator=generator)
    rewards = th.randn(episodes.n_rows, generator=generator, dtype=th.float64)
    returns = est.reward_to_go(rewards, episodes, 0.9)
    advantages = returns - est.leave_one_out(returns, episodes)
    divisor = est.loss_divisor(episodes, loss_reduction)

    def flat_gradient(scalar: th.Tensor) -> th.Tensor:
        return th.cat([part.flatten() for part in th.autograd.grad(scalar, list(net.parameters()))])

    def log_prob(rows: slice) -> th.Tensor:
        table = net(observations[rows]).log_softmax(-1)
        return table.gather(1, actions[rows, None]).squeeze(1)

    def surrogate(rows: slice) -> th.Tensor:
        return est.score_function_surrogate(log_prob(rows), advantages[rows], divisor)

    literal = th.zeros_like(flat_gradient(surrogate(slice(None))))
    for row in range(episodes.n_rows):
        literal += advantages[row] * flat_gradient(log_prob(slice(row, row + 1)).sum())
    literal /= 5 if loss_reduction == "episode" else 20
    assert relative_error(flat_gradient(surrogate(slice(None))), literal) < 1e-10
    parts = flat_gradient(surrogate(slice(0, 6))) + flat_gradient(surrogate(slice(6, None)))
    assert relative_error(parts, literal) < 1e-10


# The noise


@pytest.mark.parametrize("n_episodes", [2, 3])
def test_gradient_variance_is_unbiased(n_episodes: int) -> None:
    """E[estimate] = tr Cov(g) / N, the true variance of the mean of N per-episode gradients."""
    enumeration = Enumeration(SMALL, logits(SMALL))

    def gradients(batch: Batch) -> th.Tensor:
        returns = est.total_return(batch.rewards, batch.episodes, 1.0)
        return batch.score_sums() * returns[batch.episodes.first_row, None]

    every, probability = gradients(enumeration.whole()), enumeration.probability
    exact = probability @ every.square().sum(-1) - (probability @ every).square().sum()
    estimate = th.zeros((), dtype=th.float64)
    for share, batch in enumeration.batches(n_episodes):
        sample = gradients(batch)
        estimate += share * est.gradient_variance(sample.sum(0), sample.square().sum(-1))
    assert_exact(estimate, exact / n_episodes)


@pytest.mark.parametrize("n_episodes", [2, 3])
def test_squared_norm_of_the_expectation_is_unbiased(n_episodes: int) -> None:
    """E[estimate] = |E g|^2, the squared norm of the policy gradient, with as little as two episodes."""
    enumeration = Enumeration(SMALL, logits(SMALL))
    estimate = th.zeros((), dtype=th.float64)
    for share, batch in enumeration.batches(n_episodes):
        sample = batch.score_sums(est.reward_to_go(batch.rewards, batch.episodes, 1.0))
        estimate += share * est.mean_sq_norm(sample.sum(0).square().sum(), sample.square().sum(), n_episodes)
    assert_exact(estimate, SMALL.objective_gradient(logits(SMALL), 1.0).square().sum())


def test_reward_to_go_is_not_always_less_noisy_than_the_total_return() -> None:
    """Pay now or pay later, the total is 1 either way: total - mean has no variance at all, reward-to-go has."""
    now_or_later = TabularMDP(
        initial=th.tensor([1.0, 0.0, 0.0], dtype=th.float64),
        transition=th.tensor([[[0, 1, 0], [0, 0, 1]]] * 3, dtype=th.float64),
        termination=th.zeros(3, 2, dtype=th.float64),
        reward=th.tensor([[0, 1], [1, 1], [0, 0]], dtype=th.float64),
        horizon=2,
    )
    enumeration = Enumeration(now_or_later, logits(now_or_later))
    noise = {"total": 0.0, "reward_to_go": 0.0}
    for share, batch in enumeration.batches(2):
        for returns in noise:
            worth = weights(returns, 1.0, "batch_mean")(batch)
            surrogate = est.score_function_surrogate(batch.log_prob, worth, 2.0)
            noise[returns] += share * float(enumeration.gradient(surrogate).square().sum())
    assert_exact(now_or_later.objective_gradient(logits(now_or_later), 1.0), th.zeros(3, 2, dtype=th.float64))
    assert noise["total"] == 0
    assert noise["reward_to_go"] > 0.01


def test_the_scores_of_the_enumeration_are_those_of_autograd() -> None:
    """The closed form that |S_i|^2 is computed with here."""
    enumeration = Enumeration(PAIRS, logits(PAIRS))
    batch = enumeration.whole()
    for row in range(0, batch.episodes.n_rows, 5):
        assert_exact(batch.scores[row], enumeration.gradient(batch.log_prob[row]).flatten(), 1e-12)
