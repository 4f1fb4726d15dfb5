"""The definitions of estimators.md written out literally, in plain Python: lists of episodes, a loop for every sum.

Quadratic, and too simple to be wrong; ``tests/estimators/test_properties.py`` holds the tensor versions to them.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

Rows = list[list[float]]
"""A number for each step of each episode."""


def reward_to_go(rewards: Rows, gamma: float, last_values: Sequence[float]) -> Rows:
    """G[i,t] = sum_{t' >= t} gamma^(t'-t) r[i,t'] + gamma^(T-t) last_values[i]"""
    return [
        [
            sum(gamma ** (u - t) * episode[u] for u in range(t, len(episode))) + gamma ** (len(episode) - t) * last
            for t in range(len(episode))
        ]
        for episode, last in zip(rewards, last_values, strict=True)
    ]


def total_return(rewards: Rows, gamma: float, last_values: Sequence[float]) -> Rows:
    """G_i at every step"""
    return [[episode[0]] * len(episode) for episode in reward_to_go(rewards, gamma, last_values)]


def returns_of(name: str, rewards: Rows, gamma: float, last_values: Sequence[float]) -> Rows:
    """The returns of this name"""
    return {"reward_to_go": reward_to_go, "total": total_return}[name](rewards, gamma, last_values)


def generalized_advantage(
    rewards: Rows, values: Rows, gamma: float, gae_lambda: float, last_values: Sequence[float]
) -> Rows:
    """A[i,t] = sum_l (gamma lambda)^l delta[i,t+l]"""
    advantages = []
    for r, v, last in zip(rewards, values, last_values, strict=True):
        following = [*v[1:], last]
        delta = [r[t] + gamma * following[t] - v[t] for t in range(len(r))]
        advantages.append(
            [sum((gamma * gae_lambda) ** (u - t) * delta[u] for u in range(t, len(r))) for t in range(len(r))]
        )
    return advantages


def vtrace_advantage(
    rewards: Rows,
    values: Rows,
    ratios: Rows,
    gamma: float,
    gae_lambda: float,
    last_values: Sequence[float],
    max_ratio: float,
) -> Rows:
    """A[i,t] = sum_l (gamma lambda)^l c[i,t+1] ... c[i,t+l] delta[i,t+l], c = min(max_ratio, rho)"""
    advantages = []
    for r, v, rho, last in zip(rewards, values, ratios, last_values, strict=True):
        following = [*v[1:], last]
        delta = [r[t] + gamma * following[t] - v[t] for t in range(len(r))]
        weight = [
            [
                math.prod([gamma * gae_lambda * min(max_ratio, rho[k]) for k in range(t + 1, u + 1)])
                for u in range(t, len(r))
            ]
            for t in range(len(r))
        ]
        advantages.append([sum(w * delta[t + k] for k, w in enumerate(weight[t])) for t in range(len(r))])
    return advantages


def discount_factors(lengths: list[int], gamma: float) -> Rows:
    """gamma^t"""
    return [[gamma**t for t in range(length)] for length in lengths]


def mean(values: list[float]) -> float:
    """0 for no values"""
    return sum(values) / len(values) if values else 0.0


def baseline(
    name: str,
    returns: Rows,
    first_steps: Sequence[int] | None = None,
    values: Rows | None = None,
    groups: Sequence[bytes] = (),
) -> Rows:
    """b[i,t] of the baseline of this name.

    :param first_steps: the t of each episode's first row, 0 if not given
    :param values: the critic's, for ``value``
    :param groups: what each episode began with, for ``group_leave_one_out``
    """
    first = [0] * len(returns) if first_steps is None else first_steps

    def at_step(step: int, episodes: list[int]) -> list[float]:
        return [returns[j][step - first[j]] for j in episodes if 0 <= step - first[j] < len(returns[j])]

    def value(i: int, t: int) -> float:
        everyone = list(range(len(returns)))
        others = [j for j in everyone if j != i]
        if name == "value":
            assert values is not None
            return values[i][t]
        if name == "group_leave_one_out":
            return mean([returns[j][0] for j in [j for j in others if groups[j] == groups[i]] or others])
        return {
            "none": 0.0,
            "batch_mean": mean([returns[j][0] for j in everyone]),
            "leave_one_out": mean([returns[j][0] for j in others]),
            "time_mean": mean(at_step(first[i] + t, everyone)),
            "time_leave_one_out": mean(at_step(first[i] + t, others)),
        }[name]

    return [[value(i, t) for t in range(len(episode))] for i, episode in enumerate(returns)]


def optimal_constant(with_returns: Rows, alone: Rows) -> float:
    """b = sum_i <R_i, S_i> / sum_i |S_i|^2, where row i is R_i, or S_i"""
    pairs = zip(with_returns, alone, strict=True)
    return sum(r * s for R, S in pairs for r, s in zip(R, S, strict=True)) / sum(s * s for S in alone for s in S)


def cumulative_sum(values: Rows) -> Rows:
    """y[i,t] = x[i,0] + ... + x[i,t]"""
    return [[sum(episode[: t + 1]) for t in range(len(episode))] for episode in values]


def path_weights(log_ratios: Rows, importance: str) -> Rows:
    """The product of the ratios of each level"""

    def weight(episode: list[float], t: int) -> float:
        return {
            "timestep": math.exp(episode[t]),
            "per_decision": math.prod(math.exp(x) for x in episode[: t + 1]),
            "trajectory": math.prod(math.exp(x) for x in episode),
            "none": 1.0,
        }[importance]

    return [[weight(episode, t) for t in range(len(episode))] for episode in log_ratios]


def self_normalized(weights: Rows, importance: str) -> Rows:
    """w[i,t] over the mean of the rows, of the episodes, or of the episodes' weights up to step t"""

    def divisor(t: int) -> float:
        return {
            "timestep": mean([w for episode in weights for w in episode]),
            "none": mean([w for episode in weights for w in episode]),
            "trajectory": mean([episode[0] for episode in weights]),
            "per_decision": mean([episode[min(t, len(episode) - 1)] for episode in weights]),
        }[importance]

    return [[w / divisor(t) for t, w in enumerate(episode)] for episode in weights]


def per_decision_credit(weights: Rows, rewards: Rows, baselines: Rows, gamma: float) -> Rows:
    """C[i,u] = sum_{t >= u} gamma^(t-u) w[i,t] r[i,t] - w[i,u] b[i,u]"""
    return [
        [sum(gamma ** (t - u) * w[t] * r[t] for t in range(u, len(w))) - w[u] * b[u] for u in range(len(w))]
        for w, r, b in zip(weights, rewards, baselines, strict=True)
    ]
