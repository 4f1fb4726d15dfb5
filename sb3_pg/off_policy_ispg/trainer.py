"""What the ``train()`` of OffPolicyISPG is made of."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator

import torch as th
from stable_baselines3.common.type_aliases import Schedule

from sb3_pg.common.base_algorithm import PolicyGradientAlgorithm
from sb3_pg.data.batch import Credit, EpisodeBatch
from sb3_pg.data.distributed import all_max, all_sum
from sb3_pg.data.minibatches import Minibatch, minibatches, whole_batch
from sb3_pg.estimators import Importance, effective_sample_size, overflow_limit
from sb3_pg.off_policy_ispg.arguments import ReusedAdvantages
from sb3_pg.off_policy_ispg.update import Update
from sb3_pg.policies.divergence import Divergence
from sb3_pg.policies.evaluation import wants_whole_episodes
from sb3_pg.policies.parameters import own_parameters_of_critic
from sb3_pg.policies.passes import all_log_probs
from sb3_pg.update.critic import ValueLoss
from sb3_pg.update.history import BatchHistory
from sb3_pg.update.statistics import weight_statistics
from sb3_pg.update.trust_region import KLConstraint, TrustRegion
from sb3_pg.update.vtrace import VTrace
from sb3_pg.update.weighting import MAX_CARRIED_WEIGHT, WeightedSample, Weighting, current_log_prob


class ImportanceTrainer(PolicyGradientAlgorithm):
    """The pieces of an update by importance weights, in the order of their use, and what is logged of it.

    They read the model's attributes when they are called: a callback may have set them.
    """

    batch_size: int | None
    n_epochs: int
    clip_range: float | Schedule | None
    clip_range_vf: float | Schedule | None
    target_kl: float | None
    kl_constraint: KLConstraint
    kl_coef: float
    importance: Importance
    max_weight: float | None
    self_normalize: bool
    defensive_coef: float
    min_ess: float | None
    reused_advantages: ReusedAdvantages
    vtrace_max_ratio: float | None
    replay_buffer: BatchHistory

    @property
    def _changed_by_update(self) -> list[object]:
        """Whose attributes an update replaces."""
        return [*super()._changed_by_update, self.replay_buffer]

    def _begin(self, batch: EpisodeBatch, credit: Credit) -> Update:
        """Join the past batches with the newest, and remember the policy as it is."""
        rows = self._rows_per_pass
        log_prob = current_log_prob(self.policy, batch, rows)
        sample = self.replay_buffer.sample(batch, credit, log_prob, self.policy, self._weighting, rows, self._vtrace)
        halves = self.kl_constraint == "backtrack" and self.target_kl is not None
        region = TrustRegion(
            self.target_kl,
            self.kl_constraint,
            self.kl_coef,
            Divergence(self.policy, sample.batch, rows),
            whole_batch(batch),
            own_parameters_of_critic(self.policy) if self._has_joint_critic and halves else (),
        )
        return Update(sample, self._weighting, region, self._divisor(batch, sample.batch))

    def _value_loss(
        self, update: Update, batch: EpisodeBatch, credit: Credit, clip_range: float | None
    ) -> tuple[EpisodeBatch, ValueLoss]:
        """What the critic is fitted to: this rollout, or where past ones are credited again, all of them, weighted."""
        if self._vtrace is None:
            return batch, ValueLoss(credit.value_targets, batch.old_values, clip_range)
        sample = update.sample
        weights = update.ratios(whole_batch(sample.batch), sample.log_prob)
        # The newest batch's rows are the first
        old_values = th.cat([batch.old_values, sample.batch.values[batch.n_rows :]])
        return sample.batch, ValueLoss(sample.credit.value_targets, old_values, clip_range, weights)

    @property
    def _vtrace(self) -> VTrace | None:
        """How past batches are credited again; None: they are not."""
        if self.reused_advantages == "stored":
            return None
        gae_lambda = self.rollout_buffer.gae_lambda if self.returns == "gae" else 1.0
        return VTrace(self.rollout_buffer.gamma, gae_lambda, self.vtrace_max_ratio or math.inf)

    @property
    def _weighting(self) -> Weighting:
        gamma = self.rollout_buffer.gamma
        return Weighting(
            self.importance,
            gamma,
            # PPO's objective bounds the ratio to the policy of now; this one is of the steps that older ones sampled
            max_weight=MAX_CARRIED_WEIGHT if self.clip_range is not None else self.max_weight or math.inf,
            defensive_coef=self.defensive_coef,
            self_normalize=self.self_normalize,
            normalize_advantage=self.normalize_advantage,
            discount=gamma if self.discount_gradient else None,
        )

    def _optimal_weights(self, batch: EpisodeBatch, returns: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        """As the score of a step of this batch alone is multiplied at the beginning of the update."""
        log_prob, everything = current_log_prob(self.policy, batch, self._rows_per_pass), whole_batch(batch)
        weighting = dataclasses.replace(self._weighting, normalize_advantage=False)

        def weights(credit: Credit) -> th.Tensor:
            sample = WeightedSample(batch, credit, th.zeros_like(log_prob), log_prob)
            ratios = weighting.normalized(weighting.bounded(sample, everything, log_prob), everything)
            return weighting.weighted(sample, everything, ratios)

        with_returns = weights(Credit(returns, returns, returns))
        # The weights are linear in the baseline, of which a 1 at every step takes away what it is multiplied by
        return with_returns, with_returns - weights(Credit(returns, returns - 1.0, returns))

    def _statistics_before(self, update: Update, batch: EpisodeBatch, advantages: th.Tensor) -> dict[str, float]:
        statistics = self._batch_statistics(batch, advantages)
        if self.log_gradient_variance:
            sample = update.sample
            weights = update.weights(whole_batch(sample.batch), sample.log_prob)
            statistics |= self._signal_to_noise(sample.batch, weights)
        return statistics

    def _parts(self, update: Update) -> Iterator[tuple[Minibatch, th.Tensor | None]]:
        """The rows of one gradient step after the other, until the policy has gone far enough.

        With the log-probs of its rows, where all must be there before the first piece's backward pass.
        """
        is_first = True
        whole_episodes = update.weighting.whole_episodes or wants_whole_episodes(self.policy)
        for epoch in range(1, self.n_epochs + 1):
            for part in minibatches(update.sample.batch, self.batch_size, whole_episodes):
                log_probs = self._log_probs_beforehand(update, part)
                if update.is_over or not (is_first or self._may_go_on(update, part, log_probs)):
                    return
                is_first = False
                update.n_epochs = epoch
                yield part, log_probs

    def _log_probs_beforehand(self, update: Update, part: Minibatch) -> th.Tensor | None:
        in_pieces = self._rows_per_pass is not None and part.n_rows > self._rows_per_pass
        if not (in_pieces and update.weighting.mixes_rows) and self.min_ess is None:
            return None
        return all_log_probs(self.policy, update.sample.batch, part, self._rows_per_pass)

    def _may_go_on(self, update: Update, part: Minibatch, log_probs: th.Tensor | None) -> bool:
        """Whether the policy is still near enough for a step on this part."""
        if self.min_ess is not None and log_probs is not None:
            if effective_sample_size(update.ratios(part, log_probs), all_sum).item() < self.min_ess:
                return False
        return not update.region.must_stop(part)

    def _clip_range(self, schedule: float | Schedule | None, name: str = "clip_range") -> float | None:
        return None if schedule is None else self._now(schedule, name)

    def _statistics_after(self, update: Update) -> dict[str, float]:
        """How far the update went, and what that makes of the penalty's coefficient."""
        sample, everything = update.sample, whole_batch(update.sample.batch)
        self.policy.set_training_mode(False)
        log_prob = all_log_probs(self.policy, sample.batch, everything, self._rows_per_pass)
        bounded = update.weighting.bounded(sample, everything, log_prob)
        weights, is_clipped = update.weighting.normalized(bounded, everything), update.weighting.is_clipped(bounded)
        statistics: dict[str, float] = {"epochs": update.n_epochs}
        clip_range = self._clip_range(self.clip_range)
        if clip_range is not None:
            statistics["clip_range"] = clip_range
            is_clipped = (log_prob - sample.log_prob).expm1().abs() > clip_range
        if (largest := all_max(bounded).item()) > math.exp(overflow_limit(bounded.dtype) - 1e-3):
            self._warn_once(
                f"An importance weight overflowed and was truncated at {largest:.1e}: few steps make the "
                "estimate. Set max_weight, lower the learning rate, or write importance='timestep'."
            )
        kl = update.region.measure()
        self.kl_coef = update.region.adapted_coef(kl)
        return statistics | weight_statistics(weights, is_clipped) | {"approx_kl": kl, "kl_coef": self.kl_coef}

    @property
    def _logged(self) -> list[str]:
        keys = [*super()._logged, "approx_kl", "epochs"]
        keys += ["kl_coef", "kl_penalty"] if self.kl_constraint == "penalty" else []
        return keys + (["clip_range"] if self.clip_range is not None else [])
