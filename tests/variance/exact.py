"""What the laboratory should find on an MDP of ten trajectories: moments of every estimator, by enumeration.

The policy is linear in the one-hot state, with parameters W and b: theta[s, a] = W[a, s] + b[a].
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.vec_env import DummyVecEnv

from sb3_pg import VanillaPG
from sb3_pg import estimators as est
from sb3_pg.variance import Estimator, Settings
from sb3_pg.variance.laboratory import Laboratory
from tests.helpers.enumeration import SMALL, Batch, Enumeration, logits
from tests.helpers.tabular import TabularEnv, TabularMDP

GAMMA = 0.9
EPISODES = 3


def tabular_model(mdp: TabularMDP, theta: th.Tensor, n_envs: int = EPISODES, **arguments: Any) -> VanillaPG:
    """A model whose policy has these logits, and whose critic is wrong: V(s) = 1, -1, 0.5, ... of the states."""
    env = DummyVecEnv([lambda: TabularEnv(mdp)] * n_envs)
    arguments = {"gamma": GAMMA, "seed": 0, "device": "cpu", **arguments}
    model = VanillaPG("MlpPolicy", env, policy_kwargs={"net_arch": []}, **arguments)
    values = th.tensor([1.0, -1.0, 0.5])[: mdp.n_states]
    wanted = {"action_net.weight": theta.T, "action_net.bias": 0.0, "value_net.weight": values, "value_net.bias": 0.0}
    with th.no_grad():
        for name, parameter in model.policy.named_parameters():
            parameter.copy_(th.as_tensor(wanted[name]))
    return model


def laboratory(model: VanillaPG, folder: Path, **settings: Any) -> Laboratory:
    """Of a tabular model, without an optimizer, on its own environment."""
    asked: dict[str, Any] = {"episodes": EPISODES, "chunk_batches": 100, "transforms": (), **settings}
    return Laboratory(model, None, Settings(**asked), folder)


def logits_of(policy: ActorCriticPolicy) -> th.Tensor:
    """``(S, A)`` theta, in double precision."""
    parameters = policy.state_dict()
    return (parameters["action_net.weight"].T + parameters["action_net.bias"]).double()


def in_parameters(gradient: th.Tensor) -> th.Tensor:
    """From gradients in theta, ``(..., S * A)``, to those in W and b, ``(..., A * S + A)``."""
    n_states, n_actions = SMALL.n_states, SMALL.n_actions
    table = gradient.reshape(*gradient.shape[:-1], n_states, n_actions)
    return th.cat([table.transpose(-1, -2).flatten(-2), table.sum(-2)], dim=-1)


@dataclass(frozen=True)
class Moments:
    """Of the gradient of one batch.

    :param mean: ``(n_parameters,)``
    :param trace: of the covariance
    :param pairwise_cosine: expected, of two independent batches
    """

    mean: th.Tensor
    trace: float
    pairwise_cosine: float


def exact_moments(enumeration: Enumeration, multipliers: Callable[[Batch], th.Tensor], n_episodes: int) -> Moments:
    """By going through every batch there is.

    :param multipliers: of each row, divided by what the sum over rows is divided by
    """
    probabilities, gradients = [], []
    for probability, batch in enumeration.batches(n_episodes):
        probabilities.append(probability)
        gradients.append(in_parameters(batch.score_sums(multipliers(batch)).sum(0)))
    p, g = th.tensor(probabilities, dtype=th.float64), th.stack(gradients).detach()
    mean = p @ g
    norms = g.norm(dim=1)
    unit = p @ (g / th.where(norms > 1e-12, norms, 1.0)[:, None] * (norms > 1e-12)[:, None])
    return Moments(mean, float(p @ g.square().sum(1) - mean.square().sum()), float(unit.square().sum()))


def objective_gradient(mdp: TabularMDP, theta: th.Tensor, gamma: float) -> th.Tensor:
    """``(n_parameters,)`` grad J, by dynamic programming."""
    return in_parameters(mdp.objective_gradient(theta, gamma).flatten())


def literal_multipliers(
    estimator: Estimator, tables: Mapping[str, th.Tensor], gamma: float = GAMMA
) -> Callable[[Batch], th.Tensor]:
    """What an estimator multiplies the scores by, written down apart from the laboratory.

    :param tables: ``(S,)`` values of each critic
    """

    gamma = gamma if estimator.gamma is None else estimator.gamma

    def of(batch: Batch) -> th.Tensor:
        index, rewards = batch.episodes, batch.rewards
        ratios = (batch.log_prob - batch.behaviour_log_prob).detach()
        weights = est.importance_weights(est.path_log_ratio(ratios, index, estimator.importance))
        if estimator.self_normalize:
            weights = est.self_normalized(weights, index, estimator.importance)
        factor = gamma**index.step if estimator.discount_gradient else th.ones_like(rewards)
        values = tables[estimator.critic][batch.states] if estimator.baseline == "value" else th.zeros_like(rewards)
        if estimator.returns == "gae":
            returns = values + est.generalized_advantage(rewards, values, index, gamma, estimator.gae_lambda)
        else:
            returns = {"total": est.total_return, "reward_to_go": est.reward_to_go}[estimator.returns](
                rewards, index, gamma
            )
        baseline = values
        if estimator.baseline in est.BATCH_BASELINES:
            baseline = est.BATCH_BASELINES[estimator.baseline](returns, index, lambda one: one)
        if estimator.baseline == "optimal":
            alone, with_returns = (in_parameters(batch.score_sums(factor * one)) for one in (1.0, returns))
            baseline = (with_returns * alone).sum() / alone.square().sum().clamp(min=1e-300) + th.zeros_like(rewards)
        if estimator.importance == "per_decision":
            credit = est.per_decision_credit(weights, rewards, baseline, index, gamma)
        else:
            credit = weights * (returns - baseline)
        if estimator.normalize:
            credit = (credit - credit.mean()) / (credit.std() + 1e-8 if credit.std() > 0 else np.inf)
        divisor = index.n_rows if estimator.loss_reduction == "step" else index.n_episodes
        return factor * credit / divisor

    return of


BEHAVIOUR = logits(SMALL).float().double()
