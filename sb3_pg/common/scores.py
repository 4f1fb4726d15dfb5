"""Gradients of the single episodes of a batch, one backward pass each."""

from __future__ import annotations

from collections.abc import Iterator

import torch as th
from stable_baselines3.common.policies import ActorCriticPolicy

from sb3_pg.common.type_aliases import EpisodeBatch
from sb3_pg.estimators import gradient_snr, optimal_constant


def episode_gradients(policy: ActorCriticPolicy, batch: EpisodeBatch, weights: th.Tensor) -> Iterator[th.Tensor]:
    """sum_t weight[i,t] grad log pi(a[i,t] | s[i,t]) of one episode i after the other.

    :param weights: ``(n_rows,)``
    :return: ``(n_parameters,)`` each, over the parameters that log pi depends on
    """
    parameters = [parameter for parameter in policy.parameters() if parameter.requires_grad]
    for rows in batch.each_episode():
        _, log_prob, _ = policy.evaluate_actions(batch.observations_at(rows), batch.actions[rows])
        gradients = th.autograd.grad((weights[rows] * log_prob).sum(), parameters, allow_unused=True)
        yield th.cat([gradient.flatten() for gradient in gradients if gradient is not None])  # type: ignore[redundant-expr]


def optimal_baseline(policy: ActorCriticPolicy, batch: EpisodeBatch) -> th.Tensor:
    """The variance-minimising constant, see :func:`~sb3_pg.estimators.baselines.optimal_constant`.

    :return: ``(n_rows,)``
    """
    scores = episode_gradients(policy, batch, th.ones_like(batch.returns))
    sq_norms = th.stack([score.square().sum() for score in scores])
    return optimal_constant(batch.returns, batch.episodes, sq_norms.to(batch.returns.dtype))


def batch_snr(policy: ActorCriticPolicy, batch: EpisodeBatch, weights: th.Tensor) -> float:
    """Signal-to-noise ratio of the batch's gradient, see :func:`~sb3_pg.estimators.variance.gradient_snr`."""
    total, sq_norms = th.zeros(()), []
    for gradient in episode_gradients(policy, batch, weights):
        total = total.to(gradient) + gradient
        sq_norms.append(gradient.square().sum())
    return gradient_snr(total, th.stack(sq_norms)).item()
