"""A policy that does what somebody else did."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from functools import partial
from typing import Any, Literal, cast, get_args

import torch as th
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import ActorCriticPolicy

from sb3_pg.data.batch import EpisodeBatch
from sb3_pg.data.checks import check_choice, check_not_negative, check_positive, check_positive_int
from sb3_pg.data.distributed import shift_and_scale
from sb3_pg.data.minibatches import CACHE_ROWS, Minibatch, minibatches
from sb3_pg.estimators import reward_to_go, score_function_surrogate
from sb3_pg.imitation.batch import batch_of, policy_of
from sb3_pg.imitation.demonstrations import Demonstration, demonstrations_from
from sb3_pg.policies.actor import WithoutCritic
from sb3_pg.policies.diffusion import Diffusion
from sb3_pg.policies.evaluation import wants_whole_episodes
from sb3_pg.policies.passes import all_values
from sb3_pg.update.gradient import Objective, accumulate_gradient
from sb3_pg.update.guard import guarded_clip

#: What a step is cloned by.
Weights = Literal["none", "return", "advantage"]


def clone(
    model: OnPolicyAlgorithm,
    demonstrations: Iterable[Any],
    n_epochs: int = 10,
    batch_size: int | None = 64,
    learning_rate: float = 1e-3,
    optimizer_class: type[th.optim.Optimizer] = th.optim.Adam,
    weights: Weights = "none",
    temperature: float = 1.0,
    max_weight: float = 20.0,
    ent_coef: float = 0.0,
    max_grad_norm: float | None = None,
) -> list[float]:
    """Fit a model's policy to demonstrations, in place: maximise the mean of weight * log pi(a|s) over their steps.

    This is the policy gradient's surrogate with the demonstrated actions in place of the policy's own, and a weight in
    place of the advantage; at weight 1 it is maximum likelihood, behaviour cloning (Pomerleau 1991, "Efficient training
    of artificial neural networks for autonomous navigation").

        clone(model, played_by(expert, n_episodes=20))
        model.learn(50_000)

    An optimizer of its own takes the steps, and the model's know nothing of it. Observations go through the statistics
    of the model's VecNormalize as they are. A critic is not fitted; where it shares layers with the actor it changes
    with them.

    :param model: of any on-policy algorithm whose policy is SB3's kind, ours, SB3's or sb3-contrib's
    :param demonstrations: what :func:`~sb3_pg.imitation.demonstrations_from` takes
    :param n_epochs: passes over all steps
    :param batch_size: steps of a gradient step, drawn anew in each pass; None for all of them at once
    :param learning_rate: of the optimizer
    :param optimizer_class: called with the policy's parameters and ``lr``; the model's own kind may be one for steps
        that are scaled (VanillaPG's natural gradient)
    :param weights: ``"none"``: 1 for every step; ``"return"``: exp((G - mean) / (temperature * deviation)) of a step's
        discounted rewards to go G, at most ``max_weight``, then divided by their mean (reward-weighted regression:
        Peters & Schaal 2007, "Reinforcement learning by reward-weighted regression for operational space control");
        ``"advantage"``: the same of G - V(s), by the critic as it is (Wang et al. 2018, "Exponentially weighted
        imitation learning for batched historical data"); :func:`~sb3_pg.imitation.warm_start` fits it first
    :param temperature: the smaller, the more the best steps count
    :param ent_coef: weight of the policy's entropy, which is maximised too
    :param max_grad_norm: where gradients are clipped; None for nowhere
    :return: ``(n_epochs,)`` the mean of -weight * log pi(a|s) over the steps of each pass
    :raises ValueError: for demonstrations that do not fit the model's spaces, for numbers that are not finite, and for
        weights where rewards or a critic are missing
    """
    check_positive_int("n_epochs", n_epochs)
    check_positive_int("batch_size", batch_size, or_none=True)
    check_positive("learning_rate", learning_rate, may_be_infinite=False)
    check_choice("weights", weights, get_args(Weights))
    check_positive("temperature", temperature, may_be_infinite=False)
    check_positive("max_weight", max_weight)
    check_not_negative("ent_coef", ent_coef)
    check_positive("max_grad_norm", max_grad_norm, or_none="no clipping")
    policy = policy_of(model)
    episodes = demonstrations_from(demonstrations)
    batch = batch_of(model, episodes)
    row_weights = th.ones_like(batch.rewards)
    if weights != "none":
        _check_rewards(episodes, weights)
        earned = reward_to_go(batch.rewards, batch.episodes, model.gamma)
        if weights == "advantage":
            _check_critic(policy)
            earned = earned - all_values(policy, batch, CACHE_ROWS)
        row_weights = exponential_weights(earned, temperature, max_weight)
    optimizer: th.optim.Optimizer = cast("Any", optimizer_class)(policy.parameters(), lr=learning_rate)
    policy.set_training_mode(True)
    try:
        return [
            _epoch(policy, optimizer, batch, row_weights, batch_size, ent_coef, max_grad_norm) for _ in range(n_epochs)
        ]
    finally:
        policy.set_training_mode(False)
        optimizer.zero_grad()


def _epoch(
    policy: ActorCriticPolicy,
    optimizer: th.optim.Optimizer,
    batch: EpisodeBatch,
    weights: th.Tensor,
    batch_size: int | None,
    ent_coef: float,
    max_grad_norm: float | None,
) -> float:
    """One pass over the batch; return its mean loss of a row."""

    def policy_loss(part: Minibatch, divisor: th.Tensor, log_prob: th.Tensor, where: slice) -> th.Tensor:
        return -score_function_surrogate(log_prob, weights[part.rows][where], divisor)

    total = 0.0
    batch = with_latents(policy, batch)
    for part in minibatches(batch, batch_size, wants_whole_episodes(policy)):
        divisor = weights.new_tensor(part.n_rows)
        optimizer.zero_grad()
        objective = Objective(partial(policy_loss, part, divisor), divisor, ent_coef)
        losses = accumulate_gradient(policy, batch, part, objective, CACHE_ROWS)
        guarded_clip(optimizer, losses.total, max_grad_norm)
        optimizer.step()
        total += float(losses.policy) * part.n_rows
    return total / batch.n_rows


def with_latents(policy: ActorCriticPolicy, batch: EpisodeBatch) -> EpisodeBatch:
    """The batch with what its actions may have come of, drawn anew, for a policy that has to be told such a thing."""
    if not isinstance(policy, Diffusion):
        return batch
    return replace(batch, extras={**batch.extras, **policy.latents_of(batch.actions)})


def exponential_weights(earned: th.Tensor, temperature: float, max_weight: float) -> th.Tensor:
    """``(n_rows,)`` what each step is cloned by, 1 on average; see :func:`clone`.

    :param earned: ``(n_rows,)`` rewards to go, or advantages
    """
    shift, scale = shift_and_scale(earned)
    weights = ((earned - shift) / (scale * temperature)).exp().clamp(max=max_weight)
    return weights / weights.mean()


def _check_critic(policy: ActorCriticPolicy) -> None:
    if isinstance(policy, WithoutCritic):
        raise ValueError(f"weights='advantage' needs a critic, and {type(policy).__name__} has none: write 'return'")


def _check_rewards(episodes: list[Demonstration], weights: str) -> None:
    missing = [number for number, one in enumerate(episodes) if one.rewards is None]
    if missing:
        raise ValueError(
            f"weights={weights!r} asks what each step earned, and demonstration {missing[0]} has no rewards: give "
            "them, or write weights='none'"
        )
