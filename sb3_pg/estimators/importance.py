"""Importance weights: what a step is worth that another policy sampled. Everything is computed in log space.

log ratio of each step -> :func:`path_log_ratio` -> less :func:`log_mixture` -> :func:`importance_weights`
(-> :func:`self_normalized`) -> weight of each row
"""

from __future__ import annotations

import math
from typing import Literal, get_args

import torch as th

from sb3_pg.estimators.baselines import AllSum, alone
from sb3_pg.estimators.episodes import (
    EpisodeIndex,
    check_rows,
    discounted_suffix_sum,
    segment_cumulative_sum,
    segment_sum,
)

Importance = Literal["timestep", "per_decision", "trajectory", "none"]
#: The levels whose weights are products over an episode, and need the whole of it.
EPISODE_LEVELS: tuple[Importance, ...] = ("per_decision", "trajectory")
#: All levels, by the name that ``importance`` takes.
LEVELS = get_args(Importance)


def log_ratio(log_prob: th.Tensor, behaviour_log_prob: th.Tensor) -> th.Tensor:
    """log rho = log pi_theta(a|s) - log pi_behaviour(a|s), of each step.

    :param log_prob: ``(n_rows,)`` under the parameters being updated.
    :param behaviour_log_prob: ``(n_rows,)`` under the parameters that sampled the action.
    :return: ``(n_rows,)``
    """
    if log_prob.ndim != 1:
        raise ValueError(f"log_prob must have shape (n_rows,), got {tuple(log_prob.shape)}")
    check_rows("behaviour_log_prob", behaviour_log_prob, len(log_prob))
    return log_prob - behaviour_log_prob


def path_log_ratio(log_ratios: th.Tensor, episodes: EpisodeIndex | None, importance: Importance) -> th.Tensor:
    """Log of the product of ratios that weighs each row.

    - ``"timestep"``: rho[i,t], the row's own. Exact in the action, not in the states and returns that an earlier
      policy led to: the gradient of E_{s~behaviour} E_{a~pi_theta}[Q_behaviour(s,a)], the surrogate of TRPO and PPO.
    - ``"per_decision"``: rho[i,0] ... rho[i,t], for the reward of step t (Precup, Sutton & Singh 2000, "Eligibility
      traces for off-policy policy evaluation"); see :func:`per_decision_credit`. Unbiased for grad J.
    - ``"trajectory"``: rho[i,0] ... rho[i,T-1], the same at every step of the episode. Unbiased for grad J.
    - ``"none"``: 1, whatever the policies.

    :param log_ratios: ``(n_rows,)``
    :param episodes: may be None where the level looks at single rows
    :return: ``(n_rows,)``
    """
    _check_level(importance)
    if importance == "none":
        return th.zeros_like(log_ratios)
    if importance == "timestep":
        return log_ratios
    if episodes is None:
        raise ValueError(f"importance={importance!r} multiplies over whole episodes: give their EpisodeIndex")
    if importance == "trajectory":
        return segment_sum(log_ratios, episodes)[episodes.episode]
    return segment_cumulative_sum(log_ratios, episodes)


def _check_level(importance: str) -> None:
    if importance not in LEVELS:
        raise ValueError(f"importance must be one of {', '.join(map(repr, LEVELS))}, got {importance!r}")


def log_mixture(path_log_ratios: th.Tensor, shares: th.Tensor) -> th.Tensor:
    """Log of what the balance heuristic divides by: log sum_k share_k q_k, relative to the row's own behaviour q.

    With w = (p / q) / (sum_k share_k q_k / q) = p / sum_k share_k q_k a sample of any of the behaviour policies has
    the weight that it would have as a sample of their mixture: at most (p / q) / (the share of its own policy), and
    at most 1 / share_k where p is q_k (Veach & Guibas 1995, "Optimally combining sampling techniques for Monte Carlo
    rendering"; for policy gradients Metelli et al. 2020, "Importance sampling techniques for policy optimization").

    :param path_log_ratios: ``(n_rows, n_policies)`` log q_k - log q, along the same path as the weights
    :param shares: ``(n_policies,)`` the share of the sample that each policy has drawn; they sum to 1
    :return: ``(n_rows,)``
    """
    if path_log_ratios.ndim != 2 or tuple(shares.shape) != (path_log_ratios.shape[1],):
        raise ValueError(
            "path_log_ratios must have shape (n_rows, n_policies) and shares (n_policies,), got "
            f"{tuple(path_log_ratios.shape)} and {tuple(shares.shape)}"
        )
    return (path_log_ratios + shares.to(path_log_ratios).log()).logsumexp(dim=1)


def overflow_limit(dtype: th.dtype) -> float:
    """Largest log of a weight that is used: a larger one is truncated, so that sums of squares stay finite too."""
    return math.log(th.finfo(dtype).max) / 2 - 10


def importance_weights(log_weights: th.Tensor, max_weight: float = math.inf, defensive_coef: float = 0.0) -> th.Tensor:
    """w = exp(log_weights), tamed in one of two ways if asked for, and never above :func:`overflow_limit`.

    :param log_weights: ``(n_rows,)`` log p - log q
    :param max_weight: c of min(w, c): of bounded variance, and biased by what is cut off (Ionides 2008, "Truncated
        importance sampling").
    :param defensive_coef: alpha of p / ((1 - alpha) q + alpha p), which is never above 1 / alpha (Hesterberg 1995,
        "Weighted average importance sampling and defensive mixture distributions"). Where the sample is q's alone
        it is biased too.
    :return: ``(n_rows,)``, finite
    """
    if not max_weight > 0:
        raise ValueError(f"max_weight must be a number > 0, got {max_weight}")
    if not 0 <= defensive_coef < 1:
        raise ValueError(f"defensive_coef must be a number in [0, 1), got {defensive_coef}")
    if defensive_coef > 0:
        of_q, of_p = math.log1p(-defensive_coef), math.log(defensive_coef)
        log_weights = -th.logaddexp(of_q - log_weights, th.full_like(log_weights, of_p))
    return log_weights.clamp(max=min(math.log(max_weight), overflow_limit(log_weights.dtype))).exp()


def self_normalized(
    weights: th.Tensor, episodes: EpisodeIndex | None, importance: Importance, all_sum: AllSum = alone
) -> th.Tensor:
    """w / mean(w): a ratio estimate, biased by O(1/N) towards the behaviour's value, and less noisy.

    The mean is that of the rows (``"timestep"``), of the episodes (``"trajectory"``), or for each step t of the
    episodes' weights up to t, an ended one keeping its last (``"per_decision"``; Thomas & Brunskill 2016,
    "Data-efficient off-policy policy evaluation for reinforcement learning", section 4).

    :param weights: ``(n_rows,)``
    :param all_sum: ``"per_decision"`` gives it vectors as long as the worker's longest episode, as
        :mod:`sb3_pg.estimators.baselines` says
    :return: ``(n_rows,)``; 0 where the mean is
    """
    _check_level(importance)
    check_rows("weights", weights, weights.numel() if episodes is None else episodes.n_rows)
    if importance not in EPISODE_LEVELS:
        mean = all_sum(weights.sum()) / all_sum(weights.new_tensor(float(weights.numel())))
    elif episodes is None:
        raise ValueError(f"importance={importance!r} normalises over whole episodes: give their EpisodeIndex")
    else:
        n_episodes = all_sum(weights.new_tensor(float(episodes.n_episodes)))
        if importance == "trajectory":
            mean = all_sum(weights[episodes.first_row].sum()) / n_episodes
        else:
            zeros = weights.new_zeros(int(episodes.lengths.max()) + 1 if episodes.n_episodes else 0)
            running = zeros.index_add(0, episodes.position, weights)
            ended = zeros.index_add(0, episodes.lengths, weights[episodes.last_row])
            mean = ((all_sum(running) + all_sum(ended).cumsum(0)) / n_episodes)[episodes.position]
    return th.where(mean > 0, weights / mean, 0.0)


def per_decision_credit(
    weights: th.Tensor, rewards: th.Tensor, baseline: th.Tensor, episodes: EpisodeIndex, gamma: float
) -> th.Tensor:
    """C_u = sum_{t >= u} gamma^(t-u) w_t r_t - w_u b_u: a reward-to-go whose rewards have weights of their own.

    :param weights: ``(n_rows,)`` along ``"per_decision"`` paths
    :param rewards: ``(n_rows,)``
    :param baseline: ``(n_rows,)`` b of each row; it may depend on the state, not on the action
    :return: ``(n_rows,)`` what the score of each step is multiplied by
    """
    check_rows("rewards", rewards, len(weights))
    check_rows("baseline", baseline, len(weights))
    return discounted_suffix_sum(weights * rewards, episodes, gamma) - weights * baseline


def effective_sample_size(weights: th.Tensor, all_sum: AllSum = alone) -> th.Tensor:
    """ESS = (sum w)^2 / (n sum w^2), as a fraction of the sample: 1 for equal weights (Kong 1992).

    :param weights: ``(n,)``, not negative
    :return: scalar in (0, 1]; 0 where every weight is 0
    """
    total, n = all_sum(weights.sum()), all_sum(weights.new_tensor(float(weights.numel())))
    shares = weights / total  # whose squares neither overflow nor vanish
    fraction = 1 / (n * all_sum((shares**2).sum()))
    return th.where(total > 0, fraction.clamp(max=1), 0.0)  # rounding could take it a little above 1


def kl_estimate(log_ratios: th.Tensor) -> th.Tensor:
    """(rho - 1) - log rho of each row: never negative, and on actions of the old policy KL(old || new) in expectation.

    Schulman 2020, "Approximating KL divergence" (k3). For distributions that have no closed form.

    :param log_ratios: ``(n_rows,)`` log pi_new - log pi_old
    :return: ``(n_rows,)``
    """
    return log_ratios.expm1() - log_ratios
