"""Importance weighting of a batch: from the log-probs of the moment to what the score of each step is multiplied by."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch as th
from stable_baselines3.common.policies import ActorCriticPolicy

from sb3_pg.data.batch import Credit, EpisodeBatch
from sb3_pg.data.distributed import ragged_sum, shift_and_scale
from sb3_pg.data.minibatches import Minibatch, episodes_with
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
from sb3_pg.policies.evaluation import wants_whole_episodes
from sb3_pg.policies.passes import all_log_probs

#: Importance weights of carried steps are truncated here.
MAX_CARRIED_WEIGHT = 10.0


def current_log_prob(policy: ActorCriticPolicy, batch: EpisodeBatch, micro_batch_size: int | None) -> th.Tensor:
    """``(n_rows,)`` log-prob under the policy as it is: the stored one where it sampled the action itself."""
    log_prob = batch.behaviour_log_prob.clone()
    carried = batch.carried.nonzero().flatten()
    if len(carried) > 0:
        part = Minibatch(carried, len(carried), None, len(carried) / batch.n_rows)
        if wants_whole_episodes(policy):
            part = episodes_with(batch, batch.carried)
        now = all_log_probs(policy, batch, part, micro_batch_size)
        log_prob[part.rows] = th.where(batch.carried[part.rows], now, log_prob[part.rows])
    return log_prob


def carried_weights(policy: ActorCriticPolicy, batch: EpisodeBatch, micro_batch_size: int | None) -> th.Tensor:
    """``(n_rows,)`` pi(a|s) / pi_behaviour(a|s): 1 but for the steps that an earlier policy sampled."""
    log_prob = current_log_prob(policy, batch, micro_batch_size)
    return importance_weights(log_ratio(log_prob, batch.behaviour_log_prob), MAX_CARRIED_WEIGHT)


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
        return self_normalized(weights, part.episodes, self.importance, ragged_sum) if self.self_normalize else weights

    @property
    def mixes_rows(self) -> bool:
        """Whether the weight of a row depends on other rows."""
        return self.whole_episodes or self.self_normalize

    def is_clipped(self, weights: th.Tensor) -> th.Tensor:
        """``(n_rows,)`` bool, where weights, not self-normalised yet, were truncated at ``max_weight``."""
        return weights >= self.max_weight

    def unweighted(self, sample: WeightedSample, part: Minibatch) -> th.Tensor:
        """What the score of each step is multiplied by before its weight: advantages, normalised, with gamma^t.

        :return: ``(n_rows,)``
        """
        advantages = sample.credit.advantages[part.rows]
        mean, scale = self._shift_and_scale(advantages)
        return self._discounted((advantages - mean) / scale, sample, part)

    def weighted(self, sample: WeightedSample, part: Minibatch, weights: th.Tensor) -> th.Tensor:
        """What the score of each step is multiplied by.

        :param weights: ``(n_rows,)``, as :meth:`normalized` gives them
        :return: ``(n_rows,)``
        """
        if self.importance != "per_decision" or part.episodes is None:
            return self.unweighted(sample, part) * weights
        credit, rows = sample.credit, part.rows
        mean, scale = self._shift_and_scale(credit.advantages[rows])
        rewards, baseline = sample.rewards_to_the_end[rows], credit.baseline[rows] + mean
        per_decision = per_decision_credit(weights, rewards, baseline, part.episodes, self.gamma) / scale
        return self._discounted(per_decision, sample, part)

    def _shift_and_scale(self, advantages: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        if not self.normalize_advantage:
            return advantages.new_zeros(()), advantages.new_ones(())
        return shift_and_scale(advantages)

    def _discounted(self, credit: th.Tensor, sample: WeightedSample, part: Minibatch) -> th.Tensor:
        if self.discount is None:
            return credit
        return credit * discount_factors(sample.batch.episodes, self.discount, credit.dtype)[part.rows]


@dataclass(frozen=True)
class WeightedSample:
    """The rows that an update learns from, and the density that they were drawn with.

    :param batch: the episodes of this rollout, then those of the batches that are used again
    :param credit: what their steps are credited with
    :param log_mixture: ``(n_rows,)`` log of the density of the mixture of all behaviour policies along the path of the
        row's weight, relative to that of its own; 0 where there is one policy
    :param log_prob: ``(n_rows,)`` under the policy as it was when the update began
    """

    batch: EpisodeBatch
    credit: Credit
    log_mixture: th.Tensor
    log_prob: th.Tensor

    @property
    def rewards_to_the_end(self) -> th.Tensor:
        """``(n_rows,)`` the rewards, with what follows a cut episode's last step added to its own."""
        last = self.batch.episodes.last_row
        return self.batch.rewards.index_copy(0, last, self.credit.returns[last])
