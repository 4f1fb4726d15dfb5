"""What a step is worth: total return, reward-to-go, generalised advantage.

Shapes: rows are flat, see :class:`~sb3_pg.estimators.episodes.EpisodeIndex`. ``last_values`` is what follows an
episode's last row: 0 where the MDP ended, V(s') where the episode was cut and the rest is to be bootstrapped.
"""

from __future__ import annotations

import torch as th

from sb3_pg.estimators.episodes import EpisodeIndex, check_rows, discounted_suffix_sum, segment_sum
from sb3_pg.estimators.importance import importance_weights


def discount_factors(episodes: EpisodeIndex, gamma: float, dtype: th.dtype | None = None) -> th.Tensor:
    """gamma^t, the factor that makes ``reward_to_go`` the gradient of the discounted objective.

    Without it (the habit of the field, and the default of this package) the estimate follows no objective's gradient
    when gamma < 1 (Thomas 2014, "Bias in natural actor-critic algorithms"; Nota & Thomas 2020, "Is the policy
    gradient a gradient?").

    :return: ``(n_rows,)``
    """
    return th.as_tensor(gamma, dtype=dtype or th.get_default_dtype(), device=episodes.step.device) ** episodes.step


def reward_to_go(
    rewards: th.Tensor, episodes: EpisodeIndex, gamma: float, last_values: th.Tensor | None = None
) -> th.Tensor:
    """G[i,t] = sum_{t' >= t} gamma^(t'-t) r[i,t'] + gamma^(T_i-t) last_values[i].

    :param rewards: ``(n_rows,)``
    :param last_values: ``(n_episodes,)``; 0 if None.
    :return: ``(n_rows,)``
    """
    return discounted_suffix_sum(_with_last_values(rewards, episodes, gamma, last_values), episodes, gamma)


def total_return(
    rewards: th.Tensor, episodes: EpisodeIndex, gamma: float, last_values: th.Tensor | None = None
) -> th.Tensor:
    """G_i = sum_t gamma^t r[i,t] over the whole episode, the same at each of its steps (Williams 1992).

    :param rewards: ``(n_rows,)``
    :param last_values: ``(n_episodes,)``; 0 if None.
    :return: ``(n_rows,)``
    """
    rewards = _with_last_values(rewards, episodes, gamma, last_values)
    discounts = th.as_tensor(gamma, dtype=rewards.dtype, device=rewards.device) ** episodes.position
    return segment_sum(discounts * rewards, episodes)[episodes.episode]


def generalized_advantage(
    rewards: th.Tensor,
    values: th.Tensor,
    episodes: EpisodeIndex,
    gamma: float,
    gae_lambda: float,
    last_values: th.Tensor | None = None,
) -> th.Tensor:
    """A[i,t] = sum_l (gamma lambda)^l delta[i,t+l], delta_t = r_t + gamma V(s_{t+1}) - V(s_t).

    Schulman et al. 2016, "High-dimensional continuous control using generalized advantage estimation", eq. 16.
    lambda = 0 is the one-step TD error, lambda = 1 is ``reward_to_go`` minus V.

    :param rewards: ``(n_rows,)``
    :param values: ``(n_rows,)`` V(s[i,t])
    :param last_values: ``(n_episodes,)``; 0 if None.
    :return: ``(n_rows,)``
    """
    check_rows("values", values, episodes.n_rows)
    rewards = _with_last_values(rewards, episodes, gamma, last_values)
    next_values = th.where(episodes.remaining > 0, values.roll(-1), 0.0)
    return discounted_suffix_sum(rewards + gamma * next_values - values, episodes, gamma * gae_lambda)


def vtrace_advantage(
    rewards: th.Tensor,
    values: th.Tensor,
    log_ratios: th.Tensor,
    episodes: EpisodeIndex,
    gamma: float,
    gae_lambda: float,
    last_values: th.Tensor | None = None,
    max_ratio: float = 1.0,
) -> th.Tensor:
    """A[i,t] = sum_l (gamma lambda)^l c[i,t+1] ... c[i,t+l] delta[i,t+l], with c = min(max_ratio, rho).

    The advantage of one policy from what another did: V-trace (Espeholt et al. 2018, "IMPALA", arXiv 1802.01561) with
    GAE's lambda, as reuse of past batches needs it (Queeney, Paschalidis & Cassandras 2021, "Generalized proximal
    policy optimization", arXiv 2111.00072). The row's own ratio is no part of it: it weighs the row in the loss. With
    ratios of 1 it is :func:`generalized_advantage`; with lambda = 1 and no limit its expectation given (s, a) is
    Q(s, a) - V(s) of the policy in the ratios' numerator, whatever V is.

    :param rewards: ``(n_rows,)``
    :param values: ``(n_rows,)`` V(s[i,t])
    :param log_ratios: ``(n_rows,)`` log rho = log pi(a|s) - log pi_behaviour(a|s)
    :param last_values: ``(n_episodes,)``; 0 if None.
    :param max_ratio: where a ratio is truncated: less noise, and the advantage of a policy between the two
    :return: ``(n_rows,)``
    :raises ValueError: for a ``max_ratio`` that is not above 0
    """
    check_rows("values", values, episodes.n_rows)
    check_rows("log_ratios", log_ratios, episodes.n_rows)
    rewards = _with_last_values(rewards, episodes, gamma, last_values)
    follows = episodes.remaining > 0
    deltas = rewards + gamma * th.where(follows, values.roll(-1), 0.0) - values
    ratios = importance_weights(log_ratios.to(rewards.dtype), max_ratio)
    return discounted_suffix_sum(deltas, episodes, gamma * gae_lambda * th.where(follows, ratios.roll(-1), 0.0))


def _with_last_values(
    rewards: th.Tensor, episodes: EpisodeIndex, gamma: float, last_values: th.Tensor | None
) -> th.Tensor:
    """Rewards, with gamma * last_values added at each episode's last row; the argument is left as it is."""
    check_rows("rewards", rewards, episodes.n_rows)
    if not rewards.is_floating_point():
        rewards = rewards.to(th.get_default_dtype())  # integers would swallow the discount
    if last_values is None:
        return rewards
    check_rows("last_values", last_values, episodes.n_episodes)
    return rewards.index_add(0, episodes.last_row, gamma * last_values.to(rewards.dtype))
