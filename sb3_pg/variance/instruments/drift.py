"""Policies some way off: how far a direction leads to a given KL, and what the episodes of before are worth there."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch as th
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import nn

from sb3_pg.data.batch import EpisodeBatch
from sb3_pg.data.minibatches import CACHE_ROWS, whole_batch
from sb3_pg.estimators import LEVELS, clipped_surrogate, discount_factors, effective_sample_size, log_ratio
from sb3_pg.policies.divergence import Divergence
from sb3_pg.policies.passes import all_log_probs
from sb3_pg.rollout.credit import baseline_of, returns_of
from sb3_pg.variance.instruments.credits import Estimator, row_weights
from sb3_pg.variance.instruments.gradients import shifted

#: How near the KL asked for has to be met.
TOLERANCE = 0.01


class NoSuchStep(ValueError):
    """No multiple of the direction has the KL that was asked for."""


@dataclass(frozen=True)
class Step:
    """A step of the parameters with a known length.

    :param vector: ``(n_parameters,)``
    :param kl: KL(old || new) over the states that it was measured on
    """

    vector: th.Tensor
    kl: float


def divergence_after(
    policy: ActorCriticPolicy, parameters: Mapping[str, nn.Parameter], batch: EpisodeBatch, vectors: Sequence[th.Tensor]
) -> list[float]:
    """KL(old || new) over a batch's states after each of several steps of the same policy."""
    kls = []
    moved = shifted(policy, parameters, th.zeros_like(vectors[0]))
    divergence = Divergence(moved, batch, CACHE_ROWS)
    mine = dict(moved.named_parameters())
    lengths = [one.numel() for one in parameters.values()]
    for vector in vectors:
        with th.no_grad():
            for name, part in zip(parameters, vector.split(lengths), strict=True):
                start = parameters[name]
                mine[name].copy_(start + part.view_as(start).to(start))
        kls.append(divergence.mean())
    return kls


def step_of_kl(
    policy: ActorCriticPolicy,
    parameters: Mapping[str, nn.Parameter],
    batch: EpisodeBatch,
    direction: th.Tensor,
    kl: float,
) -> Step:
    """The multiple of a direction after which KL(old || new), over a batch's states, is what was asked for.

    The KL grows with the square of a short step, which gives the next guess; what is known to be too short or too long
    bounds it.

    :param direction: ``(n_parameters,)``
    :raises NoSuchStep: where no multiple of it comes to that KL
    """
    norm = float(direction.norm())
    if norm == 0:
        raise NoSuchStep("the direction of the drift is 0: there is no gradient to follow; write direction='random'")
    vector = direction / norm
    size, low, high = 0.1, 0.0, float("inf")
    for _ in range(60):
        (here,) = divergence_after(policy, parameters, batch, [size * vector])
        if abs(here - kl) <= TOLERANCE * kl:
            return Step(size * vector, here)
        low, high = (size, high) if here < kl else (low, size)
        guess = size * (kl / here) ** 0.5 if here > 0 else 10 * size
        between = (low + high) / 2 if high < float("inf") else 10 * size
        size = guess if low < guess < high and guess <= 10 * size else between
    raise NoSuchStep(
        f"no step along this direction comes to a KL of {kl:g}: the last one tried, {size:.3g}, had {here:.3g}"
    )


def random_direction(n_parameters: int, seed: int) -> th.Tensor:
    """A direction that knows nothing of the gradient."""
    return th.randn(n_parameters, generator=th.Generator().manual_seed(seed), dtype=th.float64)


def log_probs_under(policy: ActorCriticPolicy, batch: EpisodeBatch) -> th.Tensor:
    """``(n_rows,)`` of the batch's actions."""
    return all_log_probs(policy, batch, whole_batch(batch), CACHE_ROWS)


def weight_statistics(batch: EpisodeBatch, log_prob: th.Tensor) -> dict[str, list[float]]:
    """Effective sample size, variance and largest weight of a batch, for each level: in the order of ``LEVELS``."""
    found: dict[str, list[float]] = {"ess": [], "weight_variance": [], "weight_max": []}
    for level in LEVELS:
        weights = row_weights(batch, level, log_prob).double()
        found["ess"].append(effective_sample_size(weights).item())
        found["weight_variance"].append(weights.var().item() if len(weights) > 1 else float("nan"))
        found["weight_max"].append(weights.max().item())
    return found


def surrogate_gains(
    batch: EpisodeBatch, log_prob: th.Tensor, estimator: Estimator, gamma: float, clip_range: float
) -> tuple[th.Tensor, th.Tensor]:
    """sum_t (rho - 1) A of each episode, and the same with PPO's clip: what a new policy promises to gain.

    The old policy's advantages of these steps, over its own state distribution (Schulman et al. 2015, eq. 3).

    :param log_prob: ``(n_rows,)`` under the new policy
    :param estimator: whose returns, baseline and gamma^t they are
    :return: ``(n_episodes,)`` each
    """
    gamma = gamma if estimator.gamma is None else estimator.gamma
    earned = returns_of(batch, estimator.returns, gamma, estimator.gae_lambda)
    advantages = earned - baseline_of(batch, earned, estimator.baseline)
    if estimator.discount_gradient:
        advantages = advantages * discount_factors(batch.episodes, gamma, advantages.dtype)
    ratios = log_ratio(log_prob, batch.behaviour_log_prob)
    gains = []
    for clip in (float("inf"), clip_range):
        rows = [clipped_surrogate(ratios[one], advantages[one], clip, 1.0) for one in batch.each_episode()]
        gains.append(th.stack(rows) - th.stack([advantages[one].sum() for one in batch.each_episode()]))
    return gains[0], gains[1]
