"""REINFORCE: the Monte-Carlo policy gradient."""

from __future__ import annotations

from typing import Any, ClassVar

import torch as th
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.type_aliases import GymEnv, Schedule

from sb3_pg.common.base_algorithm import PolicyGradientAlgorithm
from sb3_pg.common.reference import Reference, ReferencePenalty
from sb3_pg.common.whole_updates import all_or_nothing
from sb3_pg.data.batch import Baseline, IncompleteEpisodes, Returns
from sb3_pg.data.minibatches import whole_batch
from sb3_pg.estimators import LossReduction, score_function_surrogate
from sb3_pg.policies.maskable import PolicyClass
from sb3_pg.update.critic import ValueLoss
from sb3_pg.update.gradient import logged_losses
from sb3_pg.update.guard import guarded_clip


class REINFORCE(PolicyGradientAlgorithm):
    """One gradient step an iteration, on whole episodes (Williams 1992).

    Every argument beyond SB3's is explained in
    :class:`~sb3_pg.common.base_algorithm.PolicyGradientAlgorithm`.

        model = REINFORCE("MlpPolicy", "CartPole-v1").learn(100_000)

    What was tried for the defaults: ``benchmarks/defaults.py``.

    Prefer it where an estimator you can write down matters more than the last sample: for teaching, for research on
    estimators, as a plain yardstick beside PPO.
    """

    supported_returns: ClassVar[tuple[str, ...]] = ("reward_to_go", "total")

    def __init__(
        self,
        policy: str | PolicyClass,
        env: GymEnv | str,
        learning_rate: float | Schedule = 0.005,
        n_steps: int | None = None,
        gamma: float = 0.99,
        ent_coef: float | Schedule = 0.0,
        vf_coef: float = 0.5,
        max_grad_norm: float | None = 0.5,
        use_sde: bool = False,
        sde_sample_freq: int = -1,
        rollout_buffer_class: type[RolloutBuffer] | None = None,
        rollout_buffer_kwargs: dict[str, Any] | None = None,
        normalize_advantage: bool = False,
        n_episodes: int | None = None,
        returns: Returns = "reward_to_go",
        baseline: str | float | Baseline = "time_leave_one_out",
        discount_gradient: bool = False,
        loss_reduction: LossReduction = "mean_length",
        incomplete_episodes: IncompleteEpisodes = "carry",
        bootstrap_truncated: bool = False,
        n_value_updates: int = 1,
        value_learning_rate: float | Schedule | None = None,
        value_batch_size: int | None = None,
        normalize_value: bool | None = None,
        micro_batch_size: int | None = None,
        log_gradient_variance: bool = False,
        reference_policy: Reference | None = None,
        reference_coef: float | Schedule = 0.1,
        reference_penalty: ReferencePenalty = "reward",
        stats_window_size: int = 100,
        tensorboard_log: str | None = None,
        policy_kwargs: dict[str, Any] | None = None,
        verbose: int = 0,
        seed: int | None = None,
        device: th.device | str = "auto",
        _init_setup_model: bool = True,
    ):
        super().__init__(
            policy,
            env,
            learning_rate=learning_rate,
            n_steps=n_steps,
            gamma=gamma,
            ent_coef=ent_coef,
            vf_coef=vf_coef,
            max_grad_norm=max_grad_norm,
            use_sde=use_sde,
            sde_sample_freq=sde_sample_freq,
            rollout_buffer_class=rollout_buffer_class,
            rollout_buffer_kwargs=rollout_buffer_kwargs,
            normalize_advantage=normalize_advantage,
            n_episodes=n_episodes,
            returns=returns,
            baseline=baseline,
            discount_gradient=discount_gradient,
            loss_reduction=loss_reduction,
            incomplete_episodes=incomplete_episodes,
            bootstrap_truncated=bootstrap_truncated,
            n_value_updates=n_value_updates,
            value_learning_rate=value_learning_rate,
            value_batch_size=value_batch_size,
            normalize_value=normalize_value,
            micro_batch_size=micro_batch_size,
            log_gradient_variance=log_gradient_variance,
            reference_policy=reference_policy,
            reference_coef=reference_coef,
            reference_penalty=reference_penalty,
            stats_window_size=stats_window_size,
            tensorboard_log=tensorboard_log,
            policy_kwargs=policy_kwargs,
            verbose=verbose,
            seed=seed,
            device=device,
            _init_setup_model=_init_setup_model,
        )

    @all_or_nothing
    def train(self) -> None:
        """One gradient step on the episodes of the rollout; none if no episode ended."""
        batch = self._begin_update()
        if batch is None:
            return
        returns = self._returns(batch)
        advantages = self._advantages(batch, returns, self._baseline(batch, returns))
        ratios = self._ratios(batch)
        weights = ratios * self._discounts(batch) * self._normalized(advantages)
        divisor = self._divisor(batch)

        def policy_loss(log_prob: th.Tensor, rows: slice) -> th.Tensor:
            return -score_function_surrogate(log_prob, weights[rows], divisor)

        statistics = self._batch_statistics(batch, advantages) | self._ratio_statistics(ratios)
        statistics |= self._signal_to_noise(batch, weights)
        self.policy.set_training_mode(True)
        value_loss = ValueLoss(self._value_targets(batch, returns), batch.values)
        losses = self._gradient(batch, whole_batch(batch), policy_loss, divisor, value_loss)
        grad_norm = guarded_clip(self.policy.optimizer, losses.total, self.max_grad_norm)
        # Before the actor's step: a critic's loss that is not finite finds the actor unchanged
        statistics |= logged_losses([losses]) | self._fit_critic(batch, value_loss) | {"grad_norm": grad_norm}
        self.policy.optimizer.step()
        self._finish_update(batch, statistics)
