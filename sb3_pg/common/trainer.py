"""What every ``train()`` is made of."""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, cast

import torch as th
from stable_baselines3.common.type_aliases import Schedule
from stable_baselines3.common.utils import update_learning_rate
from torch import nn

from sb3_pg.data.batch import EpisodeBatch, IncompleteEpisodes, Returns
from sb3_pg.data.checks import scheduled_value
from sb3_pg.data.distributed import all_sum, any_worker, failing_together, mean_and_std, shift_and_scale
from sb3_pg.data.minibatches import CACHE_ROWS, Minibatch, whole_batch
from sb3_pg.estimators import LossReduction, discount_factors, loss_divisor
from sb3_pg.policies.contexts import evaluation_mode
from sb3_pg.rollout.collector import EpisodeCollector
from sb3_pg.rollout.credit import advantages_of, baseline_of, returns_of, value_targets_of
from sb3_pg.update.critic import ValueLoss, fit_critic, separate_critic
from sb3_pg.update.episode_gradients import batch_snr, optimal_baseline
from sb3_pg.update.gradient import Losses, Objective, Penalty, PolicyLoss, accumulate_gradient
from sb3_pg.update.statistics import mean_episode_length, value_explained_variance, weight_statistics
from sb3_pg.update.undo import Undo
from sb3_pg.update.weighting import MAX_CARRIED_WEIGHT, carried_weights

#: Share of the newest batch in the running mean of episode lengths.
LENGTH_UPDATE = 0.1
#: Iterations in a row without an episode to learn from that are worth a word, once there has been one.
MAX_WAIT = 10


class Trainer(EpisodeCollector):
    """The pieces of an update, in the order of their use, and what is logged of it.

    They read the model's attributes when they are called: a callback may have set them.
    """

    normalize_advantage: bool
    returns: Returns
    discount_gradient: bool
    loss_reduction: LossReduction
    incomplete_episodes: IncompleteEpisodes
    n_value_updates: int
    value_batch_size: int | None
    normalize_value: bool
    micro_batch_size: int | None
    log_gradient_variance: bool
    value_lr_schedule: Schedule

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.value_optimizer: th.optim.Optimizer | None = None
        self._separated: list[object] = []
        self._mean_length: float | None = None
        self._iterations_without_update = 0
        #: What the last update began with, until it is finished.
        self._undo = Undo()

    @property
    def _optimizers(self) -> list[th.optim.Optimizer]:
        """The policy's, and the critic's own if it has one."""
        return [one for one in (self.policy.optimizer, self.value_optimizer) if one is not None]

    @property
    def _changed_by_update(self) -> list[object]:
        """Whose attributes an update replaces."""
        return [self]

    def _begin_update(self) -> EpisodeBatch | None:
        """Set the learning rates; return the episodes to learn from, or log that there are none and return None.

        A worker that has none takes part in the update of those that have some, with a batch of no rows.
        """
        if self.value_optimizer is not None:
            self._separate_critic()
            update_learning_rate(self.value_optimizer, self._value_rate)
        self._update_learning_rate(self.policy.optimizer)
        batch = self.rollout_buffer.batch
        if not any_worker(batch is not None):
            self._no_episode()
            return None
        self._iterations_without_update = 0
        return self.rollout_buffer.batch_of_none if batch is None else batch

    def _separate_critic(self) -> None:
        """Give the critic an optimizer of its own; again when another policy, optimizer or layer is in place."""
        parts = [self.policy, self.policy.optimizer, *self.policy.parameters()]
        if len(parts) == len(self._separated) and all(map(operator.is_, parts, self._separated)):
            return
        rate = self._value_rate
        self.value_optimizer = separate_critic(self.policy, rate, self._make_value_optimizer, self.value_optimizer)
        self._separated = [self.policy, self.policy.optimizer, *self.policy.parameters()]

    def _make_value_optimizer(self, parameters: list[nn.Parameter], learning_rate: float) -> th.optim.Optimizer:
        """The critic's own: of the policy's kind."""
        make = cast("Callable[..., th.optim.Optimizer]", self.policy.optimizer_class)
        return make(parameters, lr=learning_rate, **self.policy.optimizer_kwargs)

    def _now(self, schedule: float | Schedule, name: str = "The schedule", may_be_negative: bool = False) -> float:
        """What a number or a schedule says at the progress made; read anew each time, since a callback may set it.

        :param name: of the argument, for the error
        """
        return scheduled_value(name, schedule, self._current_progress_remaining, may_be_negative=may_be_negative)

    @property
    def _value_rate(self) -> float:
        return self._now(self.value_lr_schedule, "value_learning_rate")

    @property
    def _entropy_weight(self) -> float:
        return self._now(self.ent_coef, "ent_coef", may_be_negative=True)

    def _update_learning_rate(self, optimizers: list[th.optim.Optimizer] | th.optim.Optimizer) -> None:
        rate = self._now(self.lr_schedule, "learning_rate")
        self.logger.record("train/learning_rate", rate)
        for optimizer in optimizers if isinstance(optimizers, list) else [optimizers]:
            update_learning_rate(optimizer, rate)

    def _returns(self, batch: EpisodeBatch) -> th.Tensor:
        """``(n_rows,)`` what each step earned."""
        return returns_of(batch, self.returns, self.rollout_buffer.gamma, self.rollout_buffer.gae_lambda)

    def _value_targets(self, batch: EpisodeBatch, returns: th.Tensor) -> th.Tensor:
        """``(n_rows,)`` what a critic should have said."""
        return value_targets_of(batch, returns, self.returns, self.rollout_buffer.gamma)

    def _baseline(self, batch: EpisodeBatch, returns: th.Tensor) -> th.Tensor:
        """``(n_rows,)`` what is subtracted from the returns."""
        if isinstance(self.baseline, str) and self.baseline == "optimal":
            return optimal_baseline(self.policy, batch, *self._optimal_weights(batch, returns))
        if callable(self.baseline):
            with failing_together():
                return baseline_of(batch, returns, self.baseline)
        return baseline_of(batch, returns, self.baseline)

    def _optimal_weights(self, batch: EpisodeBatch, returns: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        """``(n_rows,)`` what a score is multiplied by without a baseline, and what with a baseline alone."""
        weights = self._ratios(batch) * self._discounts(batch)
        return weights * returns, weights

    def _advantages(self, batch: EpisodeBatch, returns: th.Tensor, baseline: th.Tensor) -> th.Tensor:
        """``(n_rows,)`` returns less baseline, as a callback left them."""
        return advantages_of(batch, returns, baseline)

    def _normalized(self, advantages: th.Tensor) -> th.Tensor:
        """``(n_rows,)`` shifted and scaled, if asked for."""
        if not self.normalize_advantage:
            return advantages
        shift, scale = shift_and_scale(advantages)
        return (advantages - shift) / scale

    def _ratios(self, batch: EpisodeBatch) -> th.Tensor:
        """``(n_rows,)`` pi(a|s) / pi_behaviour(a|s): 1 but for the steps that an earlier policy sampled."""
        return carried_weights(self.policy, batch, self._rows_per_pass)

    def _discounts(self, batch: EpisodeBatch) -> th.Tensor:
        """``(n_rows,)`` gamma^t; without ``discount_gradient`` the scalar 1."""
        if not self.discount_gradient:
            return batch.rewards.new_ones(())
        return discount_factors(batch.episodes, self.rollout_buffer.gamma, batch.rewards.dtype)

    def _divisor(self, batch: EpisodeBatch, sample: EpisodeBatch | None = None) -> th.Tensor:
        """What the sum of the loss over rows is divided by.

        :param sample: what the loss is of, if that is more than the batch
        """
        past = mean_episode_length(batch) if self._mean_length is None else self._mean_length
        return loss_divisor((sample or batch).episodes, self.loss_reduction, past, all_sum)

    def _gradient(
        self,
        batch: EpisodeBatch,
        part: Minibatch,
        policy_loss: PolicyLoss,
        divisor: th.Tensor,
        value_loss: ValueLoss,
        penalties: Mapping[str, Penalty] = MappingProxyType({}),
    ) -> Losses:
        """The gradient of the loss, into the parameters' ``.grad``: the policy's, the entropy's, a joint critic's."""
        self.policy.optimizer.zero_grad()
        joint_loss = value_loss if self._has_joint_critic else None
        every = {**penalties, **self._own_penalties(batch)}
        objective = Objective(policy_loss, divisor, self._entropy_weight, self.vf_coef, joint_loss, every)
        return accumulate_gradient(self.policy, batch, part, objective, self._rows_per_pass)

    def _own_penalties(self, batch: EpisodeBatch) -> Mapping[str, Penalty]:
        """What is added to every loss of the policy, whatever the algorithm."""
        return {}

    def _policy_loss(self, batch: EpisodeBatch, policy_loss: PolicyLoss, divisor: th.Tensor) -> float:
        """The loss of the policy as it acts, less the entropy bonus, without a gradient."""
        penalties = self._own_penalties(batch)
        objective = Objective(policy_loss, divisor, self._entropy_weight, penalties=penalties)
        with th.no_grad(), evaluation_mode(self.policy):
            losses = accumulate_gradient(self.policy, batch, whole_batch(batch), objective, self._rows_per_pass)
        return losses.total.item()

    @property
    def _has_joint_critic(self) -> bool:
        """Whether the critic is learned in one loss with the policy."""
        return self.uses_critic and self.value_optimizer is None

    @property
    def _rows_per_pass(self) -> int | None:
        """``micro_batch_size``, or if None what suits the device; None for all rows at once."""
        if self.micro_batch_size is not None or self.device.type != "cpu":
            return self.micro_batch_size
        # A batch normalisation would see each piece alone
        normalizes = any(isinstance(module, nn.modules.batchnorm._BatchNorm) for module in self.policy.modules())
        return None if normalizes else CACHE_ROWS

    def _fit_critic(self, batch: EpisodeBatch, value_loss: ValueLoss) -> dict[str, float]:
        """The passes of the critic's own optimizer, if it has one; returns the mean loss of the last of them."""
        if self.value_optimizer is None:
            return {}
        args = (self.n_value_updates, self.value_batch_size, self._rows_per_pass, self.max_grad_norm)
        loss = fit_critic(self.policy, self.value_optimizer, batch, value_loss, *args, self.normalize_value)
        return {"value_loss": loss}

    # --- logging ---------------------------------------------------------------------------------------------------

    def _batch_statistics(self, batch: EpisodeBatch, advantages: th.Tensor) -> dict[str, float]:
        """What is logged of a batch before the policy changes.

        :param advantages: ``(n_rows,)`` before they are normalised
        """
        statistics = {"advantage_std": mean_and_std(advantages)[1].item()}
        if self.uses_critic:
            statistics["explained_variance"] = value_explained_variance(batch, self.rollout_buffer.gamma)
        return statistics

    def _signal_to_noise(self, batch: EpisodeBatch, weights: th.Tensor) -> dict[str, float]:
        """The signal-to-noise ratio of the gradient, if it is to be logged.

        :param weights: ``(n_rows,)`` what the score of each step is multiplied by
        """
        if not self.log_gradient_variance:
            return {}
        snr = batch_snr(self.policy, batch, weights)
        if math.isnan(snr):
            self._warn_once(
                "train/gradient_snr is nan where a batch has fewer than two independent parts (episodes, or where some "
                "are cut, environments), or no gradient: raise n_steps, n_episodes or the number of environments."
            )
        return {"gradient_snr": snr}

    def _ratio_statistics(self, ratios: th.Tensor) -> dict[str, float]:
        """What is logged of the weights of carried steps."""
        return weight_statistics(ratios, ratios >= MAX_CARRIED_WEIGHT)

    def _finish_update(self, batch: EpisodeBatch, statistics: dict[str, float], n_updates: int = 1) -> None:
        """Count the update, remember how long its episodes were, and log it."""
        self._n_updates += n_updates
        length = mean_episode_length(batch)
        past = length if self._mean_length is None else self._mean_length
        self._mean_length = past + LENGTH_UPDATE * (length - past)
        self._record(statistics)
        self._check_reach(statistics.get("approx_kl", 0.0))

    def _check_reach(self, kl: float) -> None:
        """Refuse an update to a policy whose parameters are finite, and what it is to draw from them is not."""
        is_expln = getattr(self.policy.action_dist, "use_expln", False)  # it then grows as the logarithm does
        log_std = None if is_expln else getattr(self.policy, "log_std", None)
        std = 0.0 if log_std is None else log_std.exp().max().item()
        if not (math.isfinite(kl) and math.isfinite(std)):
            raise ValueError(
                f"With this update the policy would go too far: its KL to the policy before is {kl}, its largest "
                f"deviation {std}. It was undone, the model can be saved. Lower the learning rate, or set target_kl."
            )

    @property
    def _logged(self) -> list[str]:
        """The keys of what is logged of an update, the same every iteration."""
        keys = ["policy_loss", "entropy_loss", "grad_norm", "advantage_std"]
        keys += ["ess", "ratio_max", "ratio_std", "clip_fraction"]
        keys += ["value_loss", "explained_variance"] if self.uses_critic else []
        return keys + (["gradient_snr"] if self.log_gradient_variance else [])

    def _record(self, statistics: dict[str, float]) -> None:
        """Log the same keys every iteration: nan where there was no update."""
        for key in self._logged:
            self.logger.record(f"train/{key}", statistics.get(key, math.nan))
        if hasattr(self.policy, "log_std"):
            self.logger.record("train/std", th.exp(self.policy.log_std).mean().item())
        self.logger.record("train/n_updates", self._n_updates, exclude="tensorboard")

    def _no_episode(self) -> None:
        """Log that this iteration has nothing to learn from; where that may go on, say what to change."""
        self._record({})
        self._iterations_without_update += 1
        waits = self.incomplete_episodes == "carry" or self.n_episodes is not None
        if waits and self._n_updates > 0 and self._iterations_without_update < MAX_WAIT:
            return  # a long episode, which is used when it ends
        if self.n_episodes is not None:
            self._warn_once(
                f"n_steps={self.n_steps} ended before each environment had played its share of "
                f"n_episodes={self.n_episodes}, so this iteration makes no update; the episodes so far are kept. "
                "Raise n_steps or lower n_episodes."
            )
        elif self.incomplete_episodes == "drop":
            self._warn_once(
                f"No episode began and ended within n_steps={self.n_steps}, so this iteration makes no update: "
                "incomplete_episodes='drop' uses no other. Raise n_steps, or write incomplete_episodes='carry'."
            )
        else:
            self._warn_once(
                f"No episode ended within n_steps={self.n_steps}, so this iteration makes no update. Raise n_steps, "
                "limit the length of episodes (gymnasium.wrappers.TimeLimit), or learn from unfinished episodes with "
                "incomplete_episodes='truncate', or 'bootstrap' and baseline='value'."
            )
