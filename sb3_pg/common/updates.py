"""From a batch to a step: weights, the guarded step of an optimizer, the critic's own steps, what is logged of both."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, cast

import torch as th
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.utils import explained_variance
from torch.nn import functional as F

from sb3_pg.common.distributed import all_sum, mean_and_std
from sb3_pg.common.type_aliases import EpisodeBatch
from sb3_pg.estimators import discount_factors, effective_sample_size, timestep_weights

#: Importance weights of carried steps are truncated here.
MAX_CARRIED_WEIGHT = 10.0


def carried_weights(policy: ActorCriticPolicy, batch: EpisodeBatch, micro_batch_size: int | None) -> th.Tensor:
    """``(n_rows,)`` pi(a|s) / pi_behaviour(a|s): 1 but for the steps that an earlier policy sampled."""
    weights = th.ones_like(batch.advantages)
    carried = batch.carried.nonzero().flatten()
    for rows in carried.split(micro_batch_size or len(carried)) if len(carried) > 0 else ():
        with th.no_grad():
            _, log_prob, _ = policy.evaluate_actions(batch.observations_at(rows), batch.actions[rows])
        weights[rows] = timestep_weights(log_prob, batch.behaviour_log_prob[rows], MAX_CARRIED_WEIGHT)
    return weights


def score_weights(
    batch: EpisodeBatch, importance: th.Tensor, normalize_advantage: bool, discount: float | None
) -> th.Tensor:
    """``(n_rows,)`` what the score of each step is multiplied by.

    :param importance: ``(n_rows,)`` importance weights
    :param discount: gamma of the factor gamma^t, None for no such factor
    """
    weights = batch.advantages
    if normalize_advantage:
        mean, std = mean_and_std(weights)
        weights = (weights - mean) / (std + 1e-8)
    if discount is not None:
        weights = weights * discount_factors(batch.episodes, discount, weights.dtype)
    return weights * importance


def mean_episode_length(batch: EpisodeBatch) -> float:
    """Mean steps of an episode, over all workers."""
    n_steps, n_episodes = all_sum(batch.episodes.lengths.sum()), all_sum(th.as_tensor(batch.episodes.n_episodes))
    return n_steps.item() / n_episodes.item()


def batch_statistics(batch: EpisodeBatch, importance: th.Tensor, uses_critic: bool) -> dict[str, float]:
    """What is logged of a batch before the policy changes."""
    statistics = {
        "advantage_std": mean_and_std(batch.advantages)[1].item(),
        "ess": effective_sample_size(importance, all_sum).item(),
        "ratio_max": importance.max().item(),
        "ratio_std": mean_and_std(importance)[1].item(),
        "clip_fraction": (importance >= MAX_CARRIED_WEIGHT).float().mean().item(),
    }
    if uses_critic:
        statistics["explained_variance"] = explained_variance(
            batch.values.cpu().numpy(), batch.value_targets.cpu().numpy()
        )
    return statistics


@dataclass(frozen=True)
class Losses:
    """The parts of a loss, scalars without a gradient.

    :param total: what the gradient is of
    :param entropy: minus the mean entropy of a row
    :param value: the critic's mean squared error, 0 if it is not part of the loss
    """

    total: float
    policy: float
    entropy: float
    value: float


def accumulate_gradient(
    policy: ActorCriticPolicy,
    batch: EpisodeBatch,
    policy_loss: Callable[[th.Tensor, slice], th.Tensor],
    divisor: th.Tensor,
    ent_coef: float,
    vf_coef: float | None,
    micro_batch_size: int | None,
) -> Losses:
    """Gradient of policy_loss - ent_coef * entropy + vf_coef * value_loss, into the parameters' ``.grad``.

    :param policy_loss: from the log-probs of some rows, and these rows, to their share of the loss
    :param divisor: of the sum of the entropies, that of the policy's loss
    :param vf_coef: None where the critic is not part of the loss
    """
    parts = th.zeros(4, device=batch.advantages.device)
    for rows in batch.micro_batches(micro_batch_size):
        values, log_prob, entropy = policy.evaluate_actions(batch.observations_at(rows), batch.actions[rows])
        policy_part = policy_loss(log_prob, rows)
        # Without a closed form, -log_prob estimates the entropy
        entropy_sum = -(-log_prob if entropy is None else entropy).sum()
        loss = policy_part + ent_coef * entropy_sum / divisor
        value_part = th.zeros_like(loss)
        if vf_coef is not None:
            value_part = value_loss(batch, rows, values)
            loss = loss + vf_coef * value_part
        loss.backward()
        parts += th.stack([loss, policy_part, entropy_sum / batch.episodes.n_rows, value_part]).detach()
    return Losses(*parts.tolist())


def guarded_clip(optimizer: th.optim.Optimizer, loss: float, max_grad_norm: float | None) -> float:
    """Clip the gradient, unless loss or gradient are not finite.

    :return: the norm of the gradient before it was clipped
    :raises ValueError: before any parameter changes
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    limit = math.inf if max_grad_norm is None else max_grad_norm
    norm = th.nn.utils.clip_grad_norm_(parameters, limit).item()
    if not (math.isfinite(loss) and math.isfinite(norm)):
        optimizer.zero_grad()
        raise ValueError(
            f"The loss ({loss}) or the norm of its gradient ({norm}) is not finite. No parameter was changed, the "
            "model can be saved. Lower the learning rate, or scale rewards and observations (VecNormalize)."
        )
    return norm


def separate_critic(policy: ActorCriticPolicy, learning_rate: float, value_learning_rate: float) -> th.optim.Optimizer:
    """Give the critic's own layers an optimizer of their own; what the actor uses stays with the policy's.

    :return: the critic's optimizer, of the policy's class
    """
    modules = [policy.mlp_extractor.value_net, policy.value_net]
    if not policy.share_features_extractor:
        modules.append(policy.vf_features_extractor)
    critic = {parameter for module in modules for parameter in module.parameters()}
    make = cast("Callable[..., th.optim.Optimizer]", policy.optimizer_class)
    kwargs: dict[str, Any] = policy.optimizer_kwargs
    policy.optimizer = make([p for p in policy.parameters() if p not in critic], lr=learning_rate, **kwargs)
    return make([p for p in policy.parameters() if p in critic], lr=value_learning_rate, **kwargs)


def value_loss(batch: EpisodeBatch, rows: slice, values: th.Tensor) -> th.Tensor:
    """Some rows' share of the critic's mean squared error over the batch.

    :param values: ``(n,)`` or ``(n, 1)`` the critic's values of those rows
    """
    return F.mse_loss(values.flatten(), batch.value_targets[rows], reduction="sum") / batch.episodes.n_rows


def fit_critic(
    policy: ActorCriticPolicy,
    optimizer: th.optim.Optimizer,
    batch: EpisodeBatch,
    n_updates: int,
    micro_batch_size: int | None,
    max_grad_norm: float | None,
) -> float:
    """Steps of the critic's own optimizer, each on the whole batch.

    :return: the loss before the last of them
    """
    loss = 0.0
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for _ in range(n_updates):
        optimizer.zero_grad()
        total = th.zeros((), device=batch.values.device)
        for rows in batch.micro_batches(micro_batch_size):
            part = value_loss(batch, rows, policy.predict_values(batch.observations_at(rows)))
            part.backward(inputs=parameters)  # not into features that are the actor's to learn
            total += part.detach()
        loss = total.item()
        guarded_clip(optimizer, loss, max_grad_norm)
        optimizer.step()
    return loss
