"""From a sum over steps to an estimate: the divisor of the loss."""

from __future__ import annotations

from typing import Literal

import torch as th

from sb3_pg.estimators.baselines import AllSum, alone
from sb3_pg.estimators.episodes import EpisodeIndex

LossReduction = Literal["step", "episode", "mean_length"]


def loss_divisor(
    episodes: EpisodeIndex, loss_reduction: LossReduction, mean_length: float | None = None, all_sum: AllSum = alone
) -> th.Tensor:
    """What the sum over all steps of the batch is divided by.

    - ``"episode"``: N, the number of episodes. This is the policy gradient, (1/N) sum_i sum_t.
    - ``"step"``: sum_i T_i, as in SB3's losses. The divisor is random and correlated with the return where lengths
      vary, so that its expectation is not proportional to the policy gradient.
    - ``"mean_length"``: N times the mean episode length of *past* batches: the direction of ``"episode"``
      at the scale of ``"step"``.

    :param mean_length: mean steps of an episode in past batches, needed by ``"mean_length"``.
    :return: scalar
    :raises ValueError: for an unknown reduction, or ``"mean_length"`` without its length.
    """
    counts = all_sum(th.stack([episodes.lengths.sum(), episodes.lengths.new_tensor(episodes.n_episodes)]))
    counts = counts.to(th.get_default_dtype())
    if loss_reduction == "step":
        return counts[0]
    if loss_reduction == "episode":
        return counts[1]
    if loss_reduction != "mean_length":
        raise ValueError(f"loss_reduction must be 'step', 'episode' or 'mean_length', got {loss_reduction!r}")
    if mean_length is None or not mean_length > 0:
        raise ValueError(f"loss_reduction='mean_length' needs a mean_length > 0, got {mean_length}")
    return counts[1] * mean_length
