"""What is logged of a batch and of its weights."""

from __future__ import annotations

import math

import torch as th

from sb3_pg.data.batch import EpisodeBatch
from sb3_pg.data.distributed import all_count, all_max, all_mean, all_sum, mean_and_std
from sb3_pg.estimators import effective_sample_size, reward_to_go


def mean_episode_length(batch: EpisodeBatch) -> float:
    """Mean steps of an episode, over all workers."""
    return all_count(batch.n_rows) / all_count(batch.episodes.n_episodes)


def value_explained_variance(batch: EpisodeBatch, gamma: float) -> float:
    """How much of the variance of the rewards to go the critic explains: 1 for all of it, 0 or less for none.

    SB3 compares with lambda returns, which contain the critic's values themselves: at lambda = 0 it would be near 1
    whatever the critic says. Here V is part of the comparison only for what follows a cut episode.
    """
    to_go = reward_to_go(batch.rewards, batch.episodes, gamma, batch.last_values)
    # As SB3's explained_variance, over all workers
    residual, whole = (mean_and_std(values.cpu().double())[1].item() for values in (to_go - batch.values, to_go))
    return 1 - (residual / whole) ** 2 if whole > 0 else math.nan


def weight_statistics(weights: th.Tensor, is_clipped: th.Tensor) -> dict[str, float]:
    """What is logged of the importance weights.

    :param weights: ``(n_rows,)``
    :param is_clipped: ``(n_rows,)`` bool, where they were truncated, or the objective was clipped
    """
    return {
        "ess": effective_sample_size(weights, all_sum).item(),
        "ratio_max": all_max(weights).item(),
        "ratio_std": mean_and_std(weights)[1].item(),
        "clip_fraction": all_mean(is_clipped.float()).item(),
    }
