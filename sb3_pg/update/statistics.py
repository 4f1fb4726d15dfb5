"""What is logged of a batch and of its weights."""

from __future__ import annotations

import torch as th
from stable_baselines3.common.utils import explained_variance

from sb3_pg.data.batch import EpisodeBatch
from sb3_pg.data.distributed import all_sum, mean_and_std
from sb3_pg.estimators import effective_sample_size, reward_to_go


def mean_episode_length(batch: EpisodeBatch) -> float:
    """Mean steps of an episode, over all workers."""
    n_steps, n_episodes = all_sum(batch.episodes.lengths.sum()), all_sum(th.as_tensor(batch.episodes.n_episodes))
    return n_steps.item() / n_episodes.item()


def value_explained_variance(batch: EpisodeBatch, gamma: float) -> float:
    """How much of the variance of the rewards to go the critic explains: 1 for all of it, 0 or less for none.

    SB3 compares with lambda returns, which contain the critic's values themselves: at lambda = 0 it would be near 1
    whatever the critic says. Here V is part of the comparison only for what follows a cut episode.
    """
    to_go = reward_to_go(batch.rewards, batch.episodes, gamma, batch.last_values)
    return explained_variance(batch.values.cpu().numpy(), to_go.cpu().numpy())


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
