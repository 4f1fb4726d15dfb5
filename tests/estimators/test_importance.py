"""The expectation of what the importance weights make of batches of other policies, exactly, as in ``test_exact.py``.

The policy whose gradient is estimated is away from the one (or the ones) that sampled, everywhere but where it says so.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

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
    logits,
    other_logits,
    policy_gradient_terms,
    relative_error,
    weights,
)
from tests.helpers.tabular import TabularMDP, random_mdp

# The levels that are unbiased for grad J, with what the products weigh.
UNBIASED: list[tuple[est.Importance, str, float]] = [
    ("trajectory", "total", 1.0),
    ("trajectory", "total", 0.8),
    ("trajectory", "reward_to_go", 1.0),
    ("trajectory", "reward_to_go", 0.8),
    ("per_decision", "reward_to_go", 1.0),
    ("per_decision", "reward_to_go", 0.8),
]


def no_baseline(batch: Batch) -> th.Tensor:
    return th.zeros_like(batch.rewards)


def level_weights(batch: Batch, importance: est.Importance, max_weight: float = math.inf) -> th.Tensor:
    """w of each row of a batch that one policy sampled."""
    log_ratios = est.log_ratio(batch.log_prob, batch.behaviour_log_prob)
    return est.importance_weights(est.path_log_ratio(log_ratios, batch.episodes, importance), max_weight)


def credit(
    batch: Batch, w: th.Tensor, importance: est.Importance, returns: str, gamma: float, baseline: th.Tensor
) -> th.Tensor:
    """What the score of each step is multiplied by: w (G - b), or for per-decision products sum_t w_t r_t - w b, and
    gamma^t where G is the reward-to-go."""
    if returns == "total":
        return w * (est.total_return(batch.rewards, batch.episodes, gamma) - baseline)
    if importance == "per_decision":
        worth = est.per_decision_credit(w, batch.rewards, baseline, batch.episodes, gamma)
    else:
        worth = w * (est.reward_to_go(batch.rewards, batch.episodes, gamma) - baseline)
    return worth * est.discount_factors(batch.episodes, gamma, worth.dtype)


def corrected(
    importance: est.Importance, returns: str = "reward_to_go", gamma: float = 1.0, baseline: Weights = no_baseline
) -> Weights:
    """The credit with the weights of that level."""
    return lambda batch: credit(batch, level_weights(batch, importance), importance, returns, gamma, baseline(batch))


def gradient_of_one_episode(enumeration: Enumeration, weights_of: Weights) -> th.Tensor:
    """``expected_gradient`` with N = 1, all trajectories at once: for weights that know nothing of other episodes."""
    batch = enumeration.whole()
    share = enumeration.probability[batch.episodes.episode]
    return enumeration.gradient(est.score_function_surrogate(batch.log_prob, share * weights_of(batch), 1.0))


# One behaviour policy, level by level


@pytest.mark.parametrize(("importance", "returns", "gamma"), UNBIASED)
def test_products_over_the_path_are_unbiased(importance: est.Importance, returns: str, gamma: float) -> None:
    """E = grad J(theta), whatever policy sampled (the reward-to-go with its gamma^t)."""
    theta = other_logits(ONE)
    estimate = gradient_of_one_episode(Enumeration(ONE, logits(ONE), theta), corrected(importance, returns, gamma))
    assert_exact(estimate, ONE.objective_gradient(theta, gamma))
    assert relative_error(estimate, ONE.objective_gradient(logits(ONE), gamma)) > 0.05


@pytest.mark.parametrize("n_episodes", [2, 3])
@pytest.mark.parametrize(("importance", "returns", "gamma"), UNBIASED)
def test_leave_one_out_is_unbiased_under_products(
    importance: est.Importance, returns: str, gamma: float, n_episodes: int
) -> None:
    """E = grad J(theta): the mean of the others' returns, as they were under the behaviour, knows nothing of this
    episode; and of one path's w the score takes the mean away."""
    mdp = PAIRS if n_episodes == 2 else SMALL
    return_of = est.total_return if returns == "total" else est.reward_to_go

    def others(batch: Batch) -> th.Tensor:
        return est.leave_one_out(return_of(batch.rewards, batch.episodes, gamma), batch.episodes)

    theta = other_logits(mdp)
    estimate = Enumeration(mdp, logits(mdp), theta).expected_gradient(
        corrected(importance, returns, gamma, others), n_episodes
    )
    assert_exact(estimate, mdp.objective_gradient(theta, gamma))


@pytest.mark.parametrize("through_the_ratio", [False, True])
def test_timestep_weights_follow_the_surrogate_of_trpo(through_the_ratio: bool) -> None:
    """E = grad of E_{s ~ d_old} E_{a ~ pi_theta}[Q_old], away from theta_old, whether rho is a weight on the score or
    is differentiated itself (grad rho = rho grad log pi); and that is not grad J(theta)."""
    behaviour, theta = logits(ONE), other_logits(ONE)
    enumeration = Enumeration(ONE, behaviour, theta)
    batch = enumeration.whole()
    ratio = level_weights(batch, "timestep")
    worth = enumeration.probability[batch.episodes.episode] * weights("reward_to_go", 1.0)(batch)
    surrogate = est.score_function_surrogate(batch.log_prob, ratio * worth, 1.0)
    estimate = enumeration.gradient((ratio * worth).sum() if through_the_ratio else surrogate)
    assert_exact(estimate, policy_gradient_terms(ONE, behaviour, 1.0, theta).sum(0))
    assert relative_error(estimate, ONE.objective_gradient(theta, 1.0)) > 0.05


def test_without_weights_the_actions_stay_those_of_the_behaviour() -> None:
    """ "none": E = sum of d_old(s) pi_old(a|s) Q_old(s,a) grad log pi_theta(a|s), by dynamic programming; which is
    neither grad J(theta), nor that of the surrogate, nor grad J(theta_old)."""
    behaviour, theta = logits(ONE), other_logits(ONE)
    estimate = gradient_of_one_episode(Enumeration(ONE, behaviour, theta), corrected("none"))
    leaf = theta.clone().requires_grad_()
    visits = ONE.occupancy(behaviour)[:, :, None] * behaviour.softmax(-1)
    expected = (visits * ONE.action_values(behaviour, 1.0) * leaf.log_softmax(-1)).sum()
    assert_exact(estimate, th.autograd.grad(expected, leaf)[0])
    others = [ONE.objective_gradient(theta, 1.0), ONE.objective_gradient(behaviour, 1.0)]
    for other in [*others, policy_gradient_terms(ONE, behaviour, 1.0, theta).sum(0)]:
        assert relative_error(estimate, other) > 0.05


@pytest.mark.parametrize("importance", ["timestep", "per_decision", "trajectory", "none"])
def test_no_level_changes_anything_where_the_policies_are_the_same(importance: est.Importance) -> None:
    """At theta_old every weight is 1 and the estimate is the policy gradient."""
    enumeration = Enumeration(ONE, logits(ONE))
    assert_exact(level_weights(enumeration.whole(), importance), no_baseline(enumeration.whole()) + 1)
    estimate = gradient_of_one_episode(enumeration, corrected(importance))
    assert_exact(estimate, ONE.objective_gradient(logits(ONE), 1.0))


# A critic

CRITIC_CASES: list[tuple[est.Importance, float]] = [
    ("trajectory", 1.0),
    ("trajectory", 0.8),
    ("per_decision", 1.0),
    ("per_decision", 0.8),
    ("timestep", 1.0),
    ("timestep", 0.8),
]


@pytest.mark.parametrize(("importance", "gamma"), CRITIC_CASES)
def test_a_critic_changes_no_expectation_but_one_that_knows_the_action_does(
    importance: est.Importance, gamma: float
) -> None:
    """Arbitrary values of the state and the clock, away from theta_old: E = that without them, which is grad J(theta)
    for the products and the gradient of the surrogate for single ratios. Not so for values of the action."""
    theta, generator = other_logits(ONE), th.Generator().manual_seed(0)
    state_table = 10 * th.randn(ONE.horizon, ONE.n_states, generator=generator, dtype=th.float64)
    action_table = th.randn(ONE.horizon, ONE.n_states, ONE.n_actions, generator=generator, dtype=th.float64)
    enumeration = Enumeration(ONE, logits(ONE), theta)
    exact = ONE.objective_gradient(theta, gamma)
    if importance == "timestep":
        exact = policy_gradient_terms(ONE, logits(ONE), gamma, theta).sum(0)

    def of_the_state(batch: Batch) -> th.Tensor:
        return batch.at(state_table)

    def of_the_action(batch: Batch) -> th.Tensor:
        return action_table[batch.episodes.step, batch.states, batch.actions]

    estimate = gradient_of_one_episode(enumeration, corrected(importance, "reward_to_go", gamma, of_the_state))
    assert_exact(estimate, exact)
    biased = gradient_of_one_episode(enumeration, corrected(importance, "reward_to_go", gamma, of_the_action))
    assert relative_error(biased, exact) > 0.1


def test_without_weights_a_critic_changes_the_expectation() -> None:
    """The behaviour's actions do not take the mean of another policy's scores away."""
    enumeration = Enumeration(ONE, logits(ONE), other_logits(ONE))
    table = ONE.state_values(logits(ONE), 1.0)
    with_it = gradient_of_one_episode(enumeration, corrected("none", baseline=lambda batch: batch.at(table)))
    assert relative_error(with_it, gradient_of_one_episode(enumeration, corrected("none"))) > 0.05


# Several behaviour policies: the balance heuristic


@dataclass(frozen=True)
class Pool:
    """Every trajectory under each of K policies, as one batch.

    :param policy: ``(n_episodes,)`` the policy that sampled the episode.
    :param probability: ``(n_episodes,)`` share_k P_k(trajectory): the sum over the batch with these weights is the
        expectation of (1/n) sum over n_k independent episodes of each policy, share_k = n_k / n.
    :param log_probs: ``(n_rows, K)`` of each row under every policy.
    """

    batch: Batch
    policy: th.Tensor
    probability: th.Tensor
    log_probs: th.Tensor
    shares: th.Tensor

    def balanced(self, importance: est.Importance) -> th.Tensor:
        """w = p / sum_k share_k q_k of each row."""
        columns = [self._path(log_prob, importance) for log_prob in self.log_probs.T]
        mixture = est.log_mixture(th.stack(columns, dim=1), self.shares)
        return est.importance_weights(self._path(self.batch.log_prob, importance) - mixture)

    def _path(self, log_prob: th.Tensor, importance: est.Importance) -> th.Tensor:
        log_ratios = est.log_ratio(log_prob, self.batch.behaviour_log_prob)
        return est.path_log_ratio(log_ratios, self.batch.episodes, importance)

    def gradients(self, worth: th.Tensor) -> th.Tensor:
        """``(n_episodes, S * A)``: sum_u worth_u s_u of each episode."""
        zeros = worth.new_zeros(self.batch.episodes.n_episodes, self.batch.scores.shape[1])
        return zeros.index_add(0, self.batch.episodes.episode, worth[:, None] * self.batch.scores)

    def variance(self, gradients: th.Tensor, counts: Sequence[int]) -> float:
        """tr Cov of (1/n) sum over n_k independent episodes of each policy."""
        total = 0.0
        for k, count in enumerate(counts):
            own = self.policy == k
            mean = self.probability[own] @ gradients[own] / self.shares[k]
            square = self.probability[own] @ gradients[own].square().sum(-1) / self.shares[k]
            total += count * float(square - mean.square().sum())
        return total / sum(counts) ** 2


def pool(mdp: TabularMDP, behaviours: Sequence[th.Tensor], counts: Sequence[int], theta: th.Tensor) -> Pool:
    enumerations = [Enumeration(mdp, behaviour, theta) for behaviour in behaviours]
    parts = [enumeration.whole() for enumeration in enumerations]
    states, actions = (th.cat([getattr(part, name) for part in parts]) for name in ("states", "actions"))
    shares = th.tensor(counts, dtype=th.float64) / sum(counts)
    return Pool(
        batch=Batch(
            episodes=est.EpisodeIndex.from_lengths(th.cat([part.episodes.lengths for part in parts])),
            states=states,
            actions=actions,
            rewards=th.cat([part.rewards for part in parts]),
            behaviour_log_prob=th.cat([part.behaviour_log_prob for part in parts]),
            log_prob=th.cat([part.log_prob.detach() for part in parts]),
            scores=th.cat([part.scores for part in parts]),
        ),
        policy=th.arange(len(parts)).repeat_interleave(parts[0].episodes.n_episodes),
        probability=th.cat([share * one.probability for share, one in zip(shares, enumerations, strict=True)]),
        log_probs=th.stack([behaviour.log_softmax(-1)[states, actions] for behaviour in behaviours], dim=1),
        shares=shares,
    )


def behaviours_of(mdp: TabularMDP, count: int) -> list[th.Tensor]:
    """The policies of the last updates."""
    return [logits(mdp) + 0.5 * k * mdp.random_logits(20 + k) for k in range(count)]


COUNTS = [(1, 1), (1, 3), (1, 1, 1), (2, 1, 4)]


@pytest.mark.parametrize(("importance", "returns", "gamma"), UNBIASED)
@pytest.mark.parametrize("counts", COUNTS)
def test_the_balance_heuristic_is_unbiased(
    counts: Sequence[int], importance: est.Importance, returns: str, gamma: float
) -> None:
    """n_k episodes of each of K policies: E of (1/n) sum of w * (what a product weighs) = grad J(theta)."""
    theta = other_logits(ONE)
    pooled = pool(ONE, behaviours_of(ONE, len(counts)), counts, theta)
    w, batch = pooled.balanced(importance), pooled.batch
    gradients = pooled.gradients(credit(batch, w, importance, returns, gamma, no_baseline(batch)))
    estimate = (pooled.probability @ gradients).view(ONE.n_states, ONE.n_actions)
    assert_exact(estimate, ONE.objective_gradient(theta, gamma))
    assert_exact(pooled.probability @ w[batch.episodes.first_row], th.tensor(1.0, dtype=th.float64))


@pytest.mark.parametrize("counts", COUNTS)
def test_the_balance_heuristic_of_single_ratios_mixes_the_actions_only(counts: Sequence[int]) -> None:
    """ "timestep": E = sum_k share_k E_{s ~ d_k} E_{a ~ pi_k}[w(s,a) Q_k(s,a) grad log pi_theta(a|s)] with
    w = pi_theta / sum_j share_j pi_j, by dynamic programming; and that is not grad J(theta)."""
    theta, behaviours = other_logits(ONE), behaviours_of(ONE, len(counts))
    pooled = pool(ONE, behaviours, counts, theta)
    worth = credit(
        pooled.batch, pooled.balanced("timestep"), "timestep", "reward_to_go", 1.0, no_baseline(pooled.batch)
    )
    estimate = (pooled.probability @ pooled.gradients(worth)).view(ONE.n_states, ONE.n_actions)

    leaf = theta.clone().requires_grad_()
    shares = [count / sum(counts) for count in counts]
    policies = [behaviour.softmax(-1) for behaviour in behaviours]
    mixture = sum(share * policy for share, policy in zip(shares, policies, strict=True))
    expected = th.zeros((), dtype=th.float64)
    for share, policy, behaviour in zip(shares, policies, behaviours, strict=True):
        visits = share * ONE.occupancy(behaviour)[:, :, None] * policy
        w = theta.softmax(-1) / mixture
        expected = expected + (visits * w * ONE.action_values(behaviour, 1.0) * leaf.log_softmax(-1)).sum()
    assert_exact(estimate, th.autograd.grad(expected, leaf)[0])
    assert relative_error(estimate, ONE.objective_gradient(theta, 1.0)) > 0.02


@pytest.mark.parametrize("counts", COUNTS)
def test_the_balance_heuristic_is_less_noisy_than_the_mean_of_plain_weights(counts: Sequence[int]) -> None:
    """Both are unbiased; the variance of what n_k episodes of each policy give is lower by 5 percent at least."""
    theta = other_logits(ONE)
    pooled = pool(ONE, behaviours_of(ONE, len(counts)), counts, theta)
    variances = {}
    for name, w in (("plain", level_weights(pooled.batch, "trajectory")), ("balanced", pooled.balanced("trajectory"))):
        gradients = pooled.gradients(credit(pooled.batch, w, "trajectory", "total", 1.0, no_baseline(pooled.batch)))
        estimate = (pooled.probability @ gradients).view(ONE.n_states, ONE.n_actions)
        assert_exact(estimate, ONE.objective_gradient(theta, 1.0))
        variances[name] = pooled.variance(gradients, counts)
    assert 0 < variances["balanced"] < 0.95 * variances["plain"]


@pytest.mark.parametrize("importance", ["timestep", "per_decision", "trajectory"])
@pytest.mark.parametrize("counts", COUNTS)
def test_balanced_weights_are_bounded(counts: Sequence[int], importance: est.Importance) -> None:
    """w <= plain weight / share of the policy that sampled, for any theta; and w <= 1 / share_k for the samples of
    every policy where theta is policy k, which plain weights exceed."""
    behaviours = behaviours_of(ONE, len(counts))
    pooled = pool(ONE, behaviours, counts, other_logits(ONE))
    own_share = pooled.shares[pooled.policy[pooled.batch.episodes.episode]]
    limit = level_weights(pooled.batch, importance) / own_share
    assert bool((pooled.balanced(importance) <= limit * (1 + 1e-12)).all())
    highest = 0.0
    for k, behaviour in enumerate(behaviours):
        pooled = pool(ONE, behaviours, counts, behaviour)
        bound = float(1 / pooled.shares[k])
        assert 1 < float(pooled.balanced(importance).max()) <= bound * (1 + 1e-12)
        highest = max(highest, float(level_weights(pooled.batch, importance).max()) / bound)
    assert highest > 1


@pytest.mark.parametrize("importance", ["timestep", "per_decision", "trajectory"])
def test_the_mixture_of_equal_policies_is_that_policy(importance: est.Importance) -> None:
    """Then w is the plain weight, whatever the shares."""
    pooled = pool(PAIRS, [logits(PAIRS)] * 3, (1, 2, 5), other_logits(PAIRS))
    assert_exact(pooled.balanced(importance), level_weights(pooled.batch, importance))


# Tamed weights


def trajectory_ratio(enumeration: Enumeration, behaviour: th.Tensor) -> list[float]:
    """W of each trajectory, as a quotient of two probabilities."""
    mdp, theta = enumeration.mdp, enumeration.theta.detach()
    return [float(mdp.probability(one, theta) / mdp.probability(one, behaviour)) for one in enumeration.trajectories]


def literal_gradient(enumeration: Enumeration, w: Sequence[float]) -> th.Tensor:
    """sum over the trajectories of P_old w G grad log P_theta, by autograd through the probability itself."""
    surrogate = th.zeros((), dtype=th.float64)
    for one, share, weight in zip(enumeration.trajectories, enumeration.probability, w, strict=True):
        log_probability = enumeration.mdp.probability(one, enumeration.theta).log()
        surrogate = surrogate + float(share) * weight * sum(one.rewards) * log_probability
    return enumeration.gradient(surrogate)


def literal_value(enumeration: Enumeration, w: Sequence[float]) -> float:
    """sum over the trajectories of P_old w G"""
    returns = [sum(one.rewards) for one in enumeration.trajectories]
    return sum(p * x * g for p, x, g in zip(enumeration.probability.tolist(), w, returns, strict=True))


def value_of_one_episode(enumeration: Enumeration, w: th.Tensor) -> float:
    """E[w G] with the weights of ``whole()``, the same at each row of an episode."""
    batch = enumeration.whole()
    returns = est.total_return(batch.rewards, batch.episodes, 1.0)
    return float(enumeration.probability @ (w.detach() * returns)[batch.episodes.first_row])


@pytest.mark.parametrize("max_weight", [0.2, 0.8, 1.0, 1.5, 1e3])
def test_truncated_weights_have_the_bias_of_truncated_weights(max_weight: float) -> None:
    """E = sum of P_old min(P_theta / P_old, c) G grad log P_theta, written out; grad J(theta) where c is above them
    all, and c times the estimate of "none" where it is below them all."""
    enumeration = Enumeration(PAIRS, logits(PAIRS), other_logits(PAIRS))
    ratio = trajectory_ratio(enumeration, logits(PAIRS))
    estimate = gradient_of_one_episode(
        enumeration, lambda batch: level_weights(batch, "trajectory", max_weight) * weights("total", 1.0)(batch)
    )
    assert_exact(estimate, literal_gradient(enumeration, [min(w, max_weight) for w in ratio]))
    exact = PAIRS.objective_gradient(other_logits(PAIRS), 1.0)
    if max_weight >= max(ratio):
        assert_exact(estimate, exact)
    else:
        assert relative_error(estimate, exact) > 0.01
    if max_weight <= min(ratio):
        assert_exact(estimate, max_weight * gradient_of_one_episode(enumeration, corrected("none", "total")))


def test_the_bias_of_truncation_vanishes_as_the_limit_grows() -> None:
    """The weight that is cut off is lost, E[min(w, c)] < 1, so that the value tends to 0, not to J(theta_old); divided
    by E[min(w, c)], as self-normalisation does, it goes here from the one, J(theta_old), to the other, J(theta)."""
    behaviour, theta = logits(PAIRS), other_logits(PAIRS)
    enumeration = Enumeration(PAIRS, behaviour, theta)
    ratio, batch = trajectory_ratio(enumeration, behaviour), enumeration.whole()
    old, new = (float(PAIRS.objective(policy, 1.0)) for policy in (behaviour, theta))
    values, totals = [], []
    for limit in [min(ratio), 0.8, 1.0, 1.5, 2.0, 3.0, max(ratio)]:
        w = level_weights(batch, "trajectory", limit).detach()
        values.append(value_of_one_episode(enumeration, w))
        totals.append(float(enumeration.probability @ w[batch.episodes.first_row]))
        assert values[-1] == pytest.approx(literal_value(enumeration, [min(x, limit) for x in ratio]), abs=1e-12)
    quotients = [value / total for value, total in zip(values, totals, strict=True)]
    assert (totals[0], values[0]) == pytest.approx((min(ratio), min(ratio) * old), abs=1e-12)
    assert (totals[-1], values[-1], quotients[0]) == pytest.approx((1, new, old), abs=1e-12)
    assert values[0] < old - 0.05 < new - 0.5
    for rising in (totals, values, quotients):
        assert all(before < after - 0.01 for before, after in itertools.pairwise(rising))


@pytest.mark.parametrize("alpha", [0.05, 0.3, 0.9])
def test_defensive_weights_are_those_of_a_mixture_that_was_not_sampled(alpha: float) -> None:
    """w = p / ((1 - alpha) q + alpha p) <= 1 / alpha; with q's sample alone E is that of these weights written out."""
    enumeration = Enumeration(PAIRS, logits(PAIRS), other_logits(PAIRS))
    ratio = trajectory_ratio(enumeration, logits(PAIRS))
    expected = [w / ((1 - alpha) + alpha * w) for w in ratio]

    def defensive(batch: Batch) -> th.Tensor:
        log_ratios = est.log_ratio(batch.log_prob, batch.behaviour_log_prob)
        path = est.path_log_ratio(log_ratios, batch.episodes, "trajectory")
        return est.importance_weights(path, defensive_coef=alpha)

    batch = enumeration.whole()
    w = defensive(batch)[batch.episodes.first_row].detach()
    assert_exact(w, th.tensor(expected, dtype=th.float64))
    assert bool((w <= 1 / alpha).all())
    estimate = gradient_of_one_episode(enumeration, lambda batch: defensive(batch) * weights("total", 1.0)(batch))
    assert_exact(estimate, literal_gradient(enumeration, expected))
    assert relative_error(estimate, PAIRS.objective_gradient(other_logits(PAIRS), 1.0)) > 0.005


@pytest.mark.parametrize("importance", ["per_decision", "trajectory"])
@pytest.mark.parametrize("counts", [(1, 1), (4, 1)])
def test_a_defensive_mixture_that_was_sampled_is_unbiased(counts: Sequence[int], importance: est.Importance) -> None:
    """A share alpha of the episodes from the target itself, which is one more policy of the mixture: E = grad J(theta),
    and on the behaviour's episodes the weights are those of ``defensive_coef``."""
    theta, alpha = other_logits(ONE), counts[1] / sum(counts)
    pooled = pool(ONE, [logits(ONE), theta], counts, theta)
    w, batch = pooled.balanced(importance), pooled.batch
    gradients = pooled.gradients(credit(batch, w, importance, "reward_to_go", 1.0, no_baseline(batch)))
    estimate = (pooled.probability @ gradients).view(ONE.n_states, ONE.n_actions)
    assert_exact(estimate, ONE.objective_gradient(theta, 1.0))
    assert bool((w <= 1 / alpha).all())
    path = est.path_log_ratio(est.log_ratio(batch.log_prob, batch.behaviour_log_prob), batch.episodes, importance)
    of_behaviour = pooled.policy[batch.episodes.episode] == 0
    assert_exact(w[of_behaviour], est.importance_weights(path, defensive_coef=alpha)[of_behaviour])


# Self-normalised weights


def self_normalized_value(enumeration: Enumeration, n_episodes: int, importance: est.Importance) -> float:
    """E[(1/N) sum_i sum_t w~[i,t] r[i,t]] over all batches of N episodes."""
    expectation = 0.0
    for probability, batch in enumeration.batches(n_episodes):
        w = est.self_normalized(level_weights(batch, importance).detach(), batch.episodes, importance)
        expectation += probability * float((w * batch.rewards).sum()) / n_episodes
    return expectation


@pytest.mark.parametrize("n_episodes", [1, 2, 3, 4])
def test_self_normalised_trajectory_weights_are_a_ratio_of_two_sums(n_episodes: int) -> None:
    """E of the estimate of J = E[sum_i W_i G_i / sum_i W_i], with both sums written out."""
    enumeration = Enumeration(SMALL, logits(SMALL), other_logits(SMALL))
    ratio, probability = trajectory_ratio(enumeration, logits(SMALL)), enumeration.probability.tolist()
    returns = [sum(one.rewards) for one in enumeration.trajectories]
    expected = 0.0
    for chosen in itertools.product(range(len(ratio)), repeat=n_episodes):
        quotient = sum(ratio[k] * returns[k] for k in chosen) / sum(ratio[k] for k in chosen)
        expected += math.prod(probability[k] for k in chosen) * quotient
    estimate = self_normalized_value(enumeration, n_episodes, "trajectory")
    assert estimate == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("importance", ["trajectory", "per_decision"])
def test_self_normalised_weights_are_biased_towards_the_behaviour_less_the_more_episodes(
    importance: est.Importance,
) -> None:
    """One episode: E = J(theta_old), nothing is corrected. From 2 on E lies between it and J(theta), ever closer."""
    enumeration = Enumeration(SMALL, logits(SMALL), other_logits(SMALL))
    old, new = (float(SMALL.objective(policy, 1.0)) for policy in (logits(SMALL), other_logits(SMALL)))
    values = {n: self_normalized_value(enumeration, n, importance) for n in (1, 2, 3, 4)}
    assert values[1] == pytest.approx(old, abs=1e-9)
    bias = {n: (value - new) / (old - new) for n, value in values.items()}
    assert new - old > 0.1
    assert 0.1 < bias[4] < bias[3] - 0.05 < bias[2] - 0.1 < 0.7


@pytest.mark.parametrize("importance", ["trajectory", "per_decision"])
def test_the_bias_of_self_normalised_weights_is_of_order_1_over_n(importance: est.Importance) -> None:
    """Close to the behaviour the bias is 1/N of the way back to J(theta_old), to within 10 percent."""
    theta = logits(SMALL) + 0.1 * (other_logits(SMALL) - logits(SMALL))
    enumeration = Enumeration(SMALL, logits(SMALL), theta)
    old, new = (float(SMALL.objective(policy, 1.0)) for policy in (logits(SMALL), theta))
    scaled = [n * (self_normalized_value(enumeration, n, importance) - new) / (old - new) for n in (1, 2, 3, 4)]
    assert scaled == pytest.approx([1.0] * 4, rel=0.1)


@pytest.mark.parametrize("importance", ["timestep", "trajectory", "per_decision", "none"])
@pytest.mark.parametrize("n_episodes", [1, 2, 3])
def test_self_normalised_weights_have_no_bias_on_policy(n_episodes: int, importance: est.Importance) -> None:
    """Weights that are all 1 stay so, and E = J."""
    value = self_normalized_value(Enumeration(SMALL, logits(SMALL)), n_episodes, importance)
    assert value == pytest.approx(float(SMALL.objective(logits(SMALL), 1.0)), abs=1e-9)


def test_the_scale_of_the_weights_cancels() -> None:
    """An unknown factor of the behaviour's probabilities does not matter, at any level."""
    batch = Enumeration(PAIRS, logits(PAIRS), other_logits(PAIRS)).whole()
    for importance in ("timestep", "trajectory", "per_decision"):
        w = level_weights(batch, importance)
        once, scaled = (est.self_normalized(factor * w, batch.episodes, importance) for factor in (1.0, 7.0))
        assert_exact(scaled, once)


# The clip of PPO, the KL divergence


def test_the_clipped_surrogate_is_the_policy_gradient_at_theta_old() -> None:
    """Every rho is 1 and nothing is clipped: E = grad J, with a critic's advantages."""
    enumeration, table = Enumeration(ONE, logits(ONE)), ONE.state_values(other_logits(ONE), 1.0)
    batch = enumeration.whole()
    share = enumeration.probability[batch.episodes.episode]
    advantages = share * (weights("reward_to_go", 1.0)(batch) - batch.at(table))
    log_ratios = est.log_ratio(batch.log_prob, batch.behaviour_log_prob)
    estimate = enumeration.gradient(est.clipped_surrogate(log_ratios, advantages, 0.2, 1.0))
    assert_exact(estimate, ONE.objective_gradient(logits(ONE), 1.0))


def test_a_clip_range_beyond_every_ratio_leaves_the_surrogate_of_trpo() -> None:
    """Away from theta_old: E = grad of E_{s ~ d_old} E_{a ~ pi_theta}[Q_old]; a range of 0.1 gives something else."""
    behaviour, theta = logits(ONE), other_logits(ONE)
    enumeration = Enumeration(ONE, behaviour, theta)
    batch = enumeration.whole()
    worth = enumeration.probability[batch.episodes.episode] * weights("reward_to_go", 1.0)(batch)
    log_ratios = est.log_ratio(batch.log_prob, batch.behaviour_log_prob)
    wide, narrow = (
        enumeration.gradient(est.clipped_surrogate(log_ratios, worth, clip_range, 1.0)) for clip_range in (1e6, 0.1)
    )
    exact = policy_gradient_terms(ONE, behaviour, 1.0, theta).sum(0)
    assert_exact(wide, exact)
    assert relative_error(narrow, exact) > 0.1


def test_the_estimate_of_the_kl_divergence_is_exact_over_the_old_policys_actions() -> None:
    """E over a ~ pi_old of (rho - 1) - log rho = KL(old || new) in every state, no term of it negative; that is not
    KL(new || old). 0 between a policy and itself."""
    old, new = (th.distributions.Categorical(logits=policy) for policy in (logits(ONE), other_logits(ONE)))
    terms = est.kl_estimate(new.logits - old.logits)
    assert bool((terms > 0).all())
    expected = (old.probs * terms).sum(-1)
    assert_exact(expected, th.distributions.kl_divergence(old, new), 1e-12)
    assert relative_error(expected, th.distributions.kl_divergence(new, old)) > 0.01
    assert not est.kl_estimate(old.logits - old.logits).any()


# The size of the sample


@pytest.mark.parametrize("repeats", [1, 2, 3])
def test_effective_sample_size_falls_geometrically_with_the_length(repeats: int) -> None:
    """A bandit played T times, sampled uniformly: E[W^2] = (sum pi'^2 / pi)^T, and the ESS is its inverse."""
    target = th.tensor([0.5, 0.3, 0.2], dtype=th.float64)
    actions = th.tensor(list(itertools.product(range(3), repeat=repeats)))
    episodes = est.EpisodeIndex.from_lengths(th.full((len(actions),), repeats))
    log_prob = target.log()[actions].flatten()
    log_ratios = est.log_ratio(log_prob, th.full_like(log_prob, -math.log(3)))
    w = est.importance_weights(est.path_log_ratio(log_ratios, episodes, "trajectory"))[episodes.first_row]
    expected = (target.square() * 3).sum() ** repeats
    assert_exact(w.square().mean(), expected)
    assert_exact(est.effective_sample_size(w), 1 / expected)


def noise(mdp: TabularMDP, importance: est.Importance, returns: str = "reward_to_go") -> float:
    """tr Cov of the gradient of one episode"""
    enumeration = Enumeration(mdp, logits(mdp), other_logits(mdp))
    batch, probability = enumeration.whole(), enumeration.probability
    worth = corrected(importance, returns)(batch).detach()
    zeros = worth.new_zeros(len(probability), batch.scores.shape[1])
    gradients = zeros.index_add(0, batch.episodes.episode, worth[:, None] * batch.scores)
    return float(probability @ gradients.square().sum(-1) - (probability @ gradients).square().sum())


def test_no_level_is_always_the_less_noisy() -> None:
    """Shorter products have less variance on one MDP; where a reward of 1 is taken back at the next step, the product
    over the whole path weighs a return that is always 0. Single ratios are the quietest here, the noisiest there."""
    paid_and_taken_back = TabularMDP(
        initial=th.tensor([1.0, 0.0], dtype=th.float64),
        transition=th.tensor([[[0, 1], [0, 1]]] * 2, dtype=th.float64),
        termination=th.zeros(2, 2, dtype=th.float64),
        reward=th.tensor([[1, 1], [-1, -1]], dtype=th.float64),
        horizon=2,
    )
    assert noise(ONE, "trajectory", "total") > 1.1 * noise(ONE, "per_decision")
    assert noise(paid_and_taken_back, "trajectory", "total") < 1e-12
    assert noise(paid_and_taken_back, "per_decision") > 0.1
    another = random_mdp(4)
    assert noise(ONE, "timestep") < 0.9 * noise(ONE, "per_decision")
    assert noise(another, "timestep") > 1.1 * noise(another, "trajectory")
