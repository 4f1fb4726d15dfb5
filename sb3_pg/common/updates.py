"""From a batch to a step: weights, the guarded step of an optimizer, the critic's own steps, what is logged of both."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch as th
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.utils import explained_variance
from torch.nn import functional as F

from sb3_pg.common.distributed import all_sum, mean_and_std
from sb3_pg.common.minibatches import Minibatch
from sb3_pg.common.passes import Passes, evaluate
from sb3_pg.common.type_aliases import EpisodeBatch
from sb3_pg.estimators import discount_factors, effective_sample_size, importance_weights, log_ratio

#: Optimizers that PyTorch has in one piece too, for all parameters at once.
FUSED = (th.optim.Adam, th.optim.AdamW)
#: Importance weights of carried steps are truncated here.
MAX_CARRIED_WEIGHT = 10.0


def current_log_prob(policy: ActorCriticPolicy, batch: EpisodeBatch, micro_batch_size: int | None) -> th.Tensor:
    """``(n_rows,)`` log-prob under the policy as it is: the stored one where it sampled the action itself."""
    log_prob = batch.behaviour_log_prob.clone()
    carried = batch.carried.nonzero().flatten()
    if len(carried) > 0:
        part = Minibatch(carried, len(carried), None, len(carried) / batch.episodes.n_rows)
        log_prob[carried] = evaluate(policy, batch, part, micro_batch_size)
    return log_prob


def carried_weights(policy: ActorCriticPolicy, batch: EpisodeBatch, micro_batch_size: int | None) -> th.Tensor:
    """``(n_rows,)`` pi(a|s) / pi_behaviour(a|s): 1 but for the steps that an earlier policy sampled."""
    log_prob = current_log_prob(policy, batch, micro_batch_size)
    return importance_weights(log_ratio(log_prob, batch.behaviour_log_prob), MAX_CARRIED_WEIGHT)


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


def batch_statistics(batch: EpisodeBatch, uses_critic: bool) -> dict[str, float]:
    """What is logged of a batch before the policy changes."""
    statistics = {"advantage_std": mean_and_std(batch.advantages)[1].item()}
    if uses_critic:
        statistics["explained_variance"] = explained_variance(
            batch.values.cpu().numpy(), batch.value_targets.cpu().numpy()
        )
    return statistics


def weight_statistics(weights: th.Tensor, is_clipped: th.Tensor) -> dict[str, float]:
    """What is logged of the importance weights.

    :param weights: ``(n_rows,)``
    :param is_clipped: ``(n_rows,)`` bool, where they were truncated, or the objective was clipped
    """
    return {
        "ess": effective_sample_size(weights, all_sum).item(),
        "ratio_max": weights.max().item(),
        "ratio_std": mean_and_std(weights)[1].item(),
        "clip_fraction": is_clipped.float().mean().item(),
    }


@dataclass(frozen=True)
class Losses:
    """The parts of a loss, scalars without a gradient; tensors, so that an accelerator need not be waited for.

    :param total: what the gradient is of
    :param entropy: minus the mean entropy of a row
    :param value: the critic's mean squared error, 0 if it is not part of the loss
    """

    total: th.Tensor
    policy: th.Tensor
    entropy: th.Tensor
    value: th.Tensor


def logged_losses(steps: Sequence[Losses]) -> dict[str, float]:
    """What is logged of the losses of an update's steps: the mean over them."""
    rows = th.stack([th.stack([one.policy, one.entropy, one.value]) for one in steps])
    return dict(zip(("policy_loss", "entropy_loss", "value_loss"), rows.mean(dim=0).tolist(), strict=True))


@dataclass(frozen=True)
class Objective:
    """What a gradient step minimises: policy_loss - ent_coef * entropy + vf_coef * value_loss + penalty.

    :param policy_loss: from the log-probs of some rows, and where they are in the minibatch, to their share of the loss
    :param divisor: of the sum of the entropies, that of the policy's loss
    :param vf_coef: None where the critic is not part of the loss
    :param clip_range_vf: most that a value counts as having moved from what it was at collection
    :param penalty: from rows of the batch to their share of one more loss
    """

    policy_loss: Callable[[th.Tensor, slice], th.Tensor]
    divisor: th.Tensor
    ent_coef: float
    vf_coef: float | None
    clip_range_vf: float | None = None
    penalty: Callable[[slice | th.Tensor], th.Tensor] | None = None


def accumulate_gradient(
    policy: ActorCriticPolicy,
    batch: EpisodeBatch,
    part: Minibatch,
    objective: Objective,
    micro_batch_size: int | None,
) -> Losses:
    """Gradient of the objective on a part of the batch, into the parameters' ``.grad``."""
    parts = th.zeros(4, device=batch.advantages.device)
    passes = Passes(policy, part.n_rows, micro_batch_size, as_sb3=True)
    for where, rows in part.pieces(micro_batch_size):
        values, log_prob, entropy = passes.evaluate(
            batch.observations_at(rows),
            batch.actions[rows],
            values=objective.vf_coef is not None,
            entropy_gradient=objective.ent_coef != 0.0,
        )
        policy_part = objective.policy_loss(log_prob, where)
        # Without a closed form, -log_prob estimates the entropy
        entropy_sum = -(-log_prob if entropy is None else entropy).sum()
        if objective.ent_coef == 0.0:
            entropy_sum = entropy_sum.detach()  # it is logged, but a backward pass through it would be for nothing
        loss = policy_part + objective.ent_coef * entropy_sum / objective.divisor
        value_part = th.zeros_like(loss)
        if objective.vf_coef is not None and values is not None:
            value_part = value_loss(batch, rows, values, objective.clip_range_vf) / part.n_rows
            loss = loss + objective.vf_coef * value_part
        if objective.penalty is not None:
            loss = loss + objective.penalty(rows) / part.n_rows
        loss.backward()
        parts += th.stack([loss, policy_part, entropy_sum / part.n_rows, value_part]).detach()
    return Losses(*parts.unbind())


def guarded_clip(optimizer: th.optim.Optimizer, loss: th.Tensor, max_grad_norm: float | None) -> float:
    """Clip the gradient, unless loss or gradient are not finite: the one time in a step that the device is waited for.

    :param loss: a scalar
    :return: the norm of the gradient before it was clipped
    :raises ValueError: before any parameter changes
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    limit = math.inf if max_grad_norm is None else max_grad_norm
    clipped = th.nn.utils.clip_grad_norm_(parameters, limit)
    value, norm = th.stack([loss, clipped]).tolist()
    if not (math.isfinite(value) and math.isfinite(norm)):
        optimizer.zero_grad()
        raise ValueError(
            f"The loss ({value}) or the norm of its gradient ({norm}) is not finite. No parameter was changed by this "
            "step, the model can be saved. Lower the learning rate, or scale rewards and observations (VecNormalize)."
        )
    return float(norm)


def separate_critic(policy: ActorCriticPolicy, learning_rate: float, value_learning_rate: float) -> th.optim.Optimizer:
    """Give the critic's own layers an optimizer of their own; what the actor uses stays with the policy's.

    Adam and AdamW step for all parameters at once, unless ``optimizer_kwargs`` say how they are to.

    :return: the critic's optimizer, of the policy's class
    """
    modules = [policy.mlp_extractor.value_net, policy.value_net]
    if not policy.share_features_extractor:
        modules.append(policy.vf_features_extractor)
    critic = {parameter for module in modules for parameter in module.parameters()}
    make = cast("Callable[..., th.optim.Optimizer]", policy.optimizer_class)
    kwargs: dict[str, Any] = policy.optimizer_kwargs
    has_chosen = not kwargs.keys().isdisjoint(("fused", "foreach", "differentiable"))
    if policy.optimizer_class in FUSED and policy.device.type in ("cpu", "cuda") and not has_chosen:
        kwargs = kwargs | {"fused": True}  # the same numbers but for rounding, without a loop in Python
    policy.optimizer = make([p for p in policy.parameters() if p not in critic], lr=learning_rate, **kwargs)
    return make([p for p in policy.parameters() if p in critic], lr=value_learning_rate, **kwargs)


def value_loss(
    batch: EpisodeBatch, rows: slice | th.Tensor, values: th.Tensor, clip_range_vf: float | None = None
) -> th.Tensor:
    """Sum of the critic's squared errors on some rows.

    :param values: ``(n,)`` or ``(n, 1)`` the critic's values of those rows
    :param clip_range_vf: most that a value counts as having moved from what it was at collection, as in SB3's PPO
    """
    values = values.flatten()
    if clip_range_vf is not None:
        before = batch.values[rows]
        values = before + (values - before).clamp(-clip_range_vf, clip_range_vf)
    return F.mse_loss(values, batch.value_targets[rows], reduction="sum")


def fit_critic(
    policy: ActorCriticPolicy,
    optimizer: th.optim.Optimizer,
    batch: EpisodeBatch,
    n_updates: int,
    micro_batch_size: int | None,
    max_grad_norm: float | None,
    clip_range_vf: float | None = None,
) -> float:
    """Steps of the critic's own optimizer, each on the whole batch.

    :return: the loss before the last of them
    """
    loss = th.zeros((), device=batch.values.device)
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    passes = Passes(policy, batch.episodes.n_rows, micro_batch_size, as_sb3=False)
    for _ in range(n_updates):
        optimizer.zero_grad()
        loss = th.zeros_like(loss)
        for rows in batch.micro_batches(micro_batch_size):
            values = passes.values(batch.observations_at(rows))
            part = value_loss(batch, rows, values, clip_range_vf) / batch.episodes.n_rows
            part.backward(inputs=parameters)  # not into features that are the actor's to learn
            loss += part.detach()
        guarded_clip(optimizer, loss, max_grad_norm)
        optimizer.step()
    return loss.item()
