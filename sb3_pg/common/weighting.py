"""Importance weighting of a batch: from the log-probs of the moment to what the score of each step is multiplied by."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch as th

from sb3_pg.common.distributed import all_sum, mean_and_std
from sb3_pg.common.minibatches import Minibatch
from sb3_pg.common.type_aliases import EpisodeBatch
from sb3_pg.estimators import (
    EPISODE_LEVELS,
    Importance,
    discount_factors,
    importance_weights,
    log_ratio,
    path_log_ratio,
    per_decision_credit,
    self_normalized,
)


@dataclass(frozen=True)
class Weighting:
    """How steps of another policy are weighted, see :mod:`sb3_pg.estimators.importance`.

    :param importance: the level
    :param max_weight: where weights are truncated
    :param normalize_advantage: over the rows of each minibatch, as in SB3's PPO
    :param discount: gamma of the factor gamma^t, None for no such factor
    """

    importance: Importance
    gamma: float
    max_weight: float = math.inf
    defensive_coef: float = 0.0
    self_normalize: bool = False
    normalize_advantage: bool = False
    discount: float | None = None

    @property
    def whole_episodes(self) -> bool:
        """Whether the weights are products over an episode."""
        return self.importance in EPISODE_LEVELS

    def bounded(self, sample: WeightedSample, part: Minibatch, log_prob: th.Tensor) -> th.Tensor:
        """The importance weight of each row, before it is self-normalised.

        :param log_prob: ``(n_rows,)`` of the minibatch's rows under the policy as it is
        :return: ``(n_rows,)``
        """
        ratios = log_ratio(log_prob, sample.batch.behaviour_log_prob[part.rows])
        path = path_log_ratio(ratios, part.episodes, self.importance) - sample.log_mixture[part.rows]
        return importance_weights(path, self.max_weight, self.defensive_coef)

    def normalized(self, weights: th.Tensor, part: Minibatch) -> th.Tensor:
        """``(n_rows,)`` the weights as they are used."""
        return self_normalized(weights, part.episodes, self.importance, all_sum) if self.self_normalize else weights

    @property
    def looks_around(self) -> bool:
        """Whether the weight of a row depends on other rows."""
        return self.whole_episodes or self.self_normalize

    def is_clipped(self, weights: th.Tensor) -> th.Tensor:
        """``(n_rows,)`` bool, where weights, not self-normalised yet, were truncated at ``max_weight``."""
        return weights >= self.max_weight

    def worth(self, sample: WeightedSample, part: Minibatch) -> th.Tensor:
        """What the score of each step is worth before its weight: advantages, normalised, with gamma^t.

        :return: ``(n_rows,)``
        """
        advantages = sample.batch.advantages[part.rows]
        mean, scale = self._advantage_statistics(advantages)
        return self._discounted((advantages - mean) / scale, sample, part)

    def credit(self, sample: WeightedSample, part: Minibatch, weights: th.Tensor) -> th.Tensor:
        """What the score of each step is multiplied by.

        :param weights: ``(n_rows,)``, as :meth:`normalized` gives them
        :return: ``(n_rows,)``
        """
        if self.importance != "per_decision" or part.episodes is None:
            return self.worth(sample, part) * weights
        batch, rows = sample.batch, part.rows
        mean, scale = self._advantage_statistics(batch.advantages[rows])
        baseline = (batch.returns - batch.advantages)[rows] + mean
        rewards = sample.rewards_to_the_end[rows]
        credit = per_decision_credit(weights, rewards, baseline, part.episodes, self.gamma) / scale
        return self._discounted(credit, sample, part)

    def _advantage_statistics(self, advantages: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        """What is subtracted from the advantages, and what they are divided by."""
        if not self.normalize_advantage or len(advantages) == 1:
            return th.zeros_like(advantages[0]), th.ones_like(advantages[0])
        mean, std = mean_and_std(advantages)
        # Where no advantage differs from another there is nothing to learn, from weighted rewards either
        return mean, th.where(std > 0, std + 1e-8, math.inf)

    def _discounted(self, credit: th.Tensor, sample: WeightedSample, part: Minibatch) -> th.Tensor:
        if self.discount is None:
            return credit
        return credit * discount_factors(sample.batch.episodes, self.discount, credit.dtype)[part.rows]


@dataclass(frozen=True)
class WeightedSample:
    """The rows that an update learns from, and the density that they were drawn with.

    :param batch: the episodes of this rollout, then those of the batches that are used again
    :param log_mixture: ``(n_rows,)`` log of the density of the mixture of all behaviour policies along the path of the
        row's weight, relative to that of its own; 0 where there is one policy
    :param log_prob: ``(n_rows,)`` under the policy as it was when the update began
    """

    batch: EpisodeBatch
    log_mixture: th.Tensor
    log_prob: th.Tensor

    @property
    def rewards_to_the_end(self) -> th.Tensor:
        """``(n_rows,)`` the rewards, with what follows a cut episode's last step added to its own."""
        last = self.batch.episodes.last_row
        return self.batch.rewards.index_copy(0, last, self.batch.returns[last])
