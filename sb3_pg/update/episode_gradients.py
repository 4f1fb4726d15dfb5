"""Gradients of the single episodes of a batch: what the optimal baseline and the signal-to-noise ratio are made of."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from operator import itemgetter

import torch as th
from stable_baselines3.common.policies import ActorCriticPolicy

from sb3_pg.data.batch import EpisodeBatch
from sb3_pg.data.distributed import all_sum, any_worker
from sb3_pg.estimators import gradient_snr, optimal_constant
from sb3_pg.policies.contexts import distribution_left_alone
from sb3_pg.policies.evaluation import evaluate_actions


def episode_gradients(
    policy: ActorCriticPolicy, batch: EpisodeBatch, *weights: th.Tensor
) -> Iterator[tuple[th.Tensor, ...]]:
    """sum_t weight[i,t] grad log pi(a[i,t] | s[i,t]) of one episode i after the other, for each of several weights.

    :param weights: ``(n_rows,)`` each
    :return: ``(n_parameters,)`` each, over the parameters that learn; 0 for those that log pi does not depend on
    """
    parameters = _parameters(policy)
    for rows in batch.each_episode():
        with distribution_left_alone(policy):
            _, log_prob, _ = evaluate_actions(policy, batch.at(rows))
        yield tuple(_gradient((one[rows] * log_prob).sum(), parameters) for one in weights)


def _parameters(policy: ActorCriticPolicy) -> list[th.nn.Parameter]:
    return [parameter for parameter in policy.parameters() if parameter.requires_grad]


def _gradient(scalar: th.Tensor, parameters: list[th.nn.Parameter]) -> th.Tensor:
    if not scalar.requires_grad:  # a frozen actor
        return scalar.new_zeros(sum(parameter.numel() for parameter in parameters))
    gradients = th.autograd.grad(scalar, parameters, retain_graph=True, materialize_grads=True)
    return th.cat([gradient.flatten() for gradient in gradients])


def optimal_baseline(
    policy: ActorCriticPolicy, batch: EpisodeBatch, weighted_returns: th.Tensor, weights: th.Tensor
) -> th.Tensor:
    """The variance-minimising constant, see :func:`~sb3_pg.estimators.baselines.optimal_constant`.

    :param weighted_returns: ``(n_rows,)`` what each score is multiplied by without a baseline
    :param weights: ``(n_rows,)`` what each score times a baseline is multiplied by
    :return: ``(n_rows,)``
    """
    dots, sq_norms = [], []
    for with_returns, alone in episode_gradients(policy, batch, weighted_returns, weights):
        dots.append(with_returns @ alone)
        sq_norms.append(alone.square().sum())
    constant = optimal_constant(_stacked(dots, weights), _stacked(sq_norms, weights), all_sum)
    return constant.to(weighted_returns.dtype).expand(batch.n_rows)


def _stacked(scalars: list[th.Tensor], like: th.Tensor) -> th.Tensor:
    """``(n,)`` of the scalars; of none too."""
    return th.stack(scalars) if scalars else like.new_zeros(0)


def batch_snr(policy: ActorCriticPolicy, batch: EpisodeBatch, weights: th.Tensor) -> float:
    """Signal-to-noise ratio of the batch's gradient, see :func:`~sb3_pg.estimators.variance.gradient_snr`.

    Its independent parts are the episodes; where some were cut by the edge of a rollout, the environments, since the
    parts of a cut episode depend on each other.

    :param weights: ``(n_rows,)`` what the score of each step is multiplied by
    :return: nan with fewer than two parts
    """
    is_cut = any_worker(not bool((batch.terminated | batch.truncated).all()))
    parts: list[int] = batch.env.tolist() if is_cut else list(range(batch.episodes.n_episodes))
    n_parameters = sum(parameter.numel() for parameter in _parameters(policy))
    total, sq_norms = weights.new_zeros(n_parameters), []
    # A batch is laid out environment after environment
    pairs = zip(parts, episode_gradients(policy, batch, weights), strict=True)
    for _, group in groupby(pairs, key=itemgetter(0)):
        gradient = sum((one for _, (one,) in group), start=th.zeros_like(total))
        total = total + gradient
        sq_norms.append(gradient.square().sum())
    return gradient_snr(total, _stacked(sq_norms, total), all_sum).item()
