"""VanillaPG: the policy gradient with a learned critic."""

from __future__ import annotations

import math
from typing import Any, cast

import torch as th
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.type_aliases import GymEnv, Schedule
from torch import nn

from sb3_pg.common.arguments import VALUE_BATCH_SIZE, VALUE_LEARNING_RATE, check_kwargs
from sb3_pg.common.base_algorithm import PolicyGradientAlgorithm
from sb3_pg.common.reference import Reference, ReferencePenalty
from sb3_pg.common.whole_updates import all_or_nothing
from sb3_pg.data.batch import Baseline, EpisodeBatch, IncompleteEpisodes, Returns
from sb3_pg.data.checks import check_bool
from sb3_pg.data.minibatches import whole_batch
from sb3_pg.estimators import LossReduction, clipped_surrogate, log_ratio, score_function_surrogate
from sb3_pg.policies.divergence import Divergence
from sb3_pg.policies.maskable import PolicyClass
from sb3_pg.policies.parameters import own_parameters_of_critic
from sb3_pg.update.critic import ValueLoss
from sb3_pg.update.gradient import logged_losses
from sb3_pg.update.guard import guarded_clip
from sb3_pg.update.natural_gradient import make_natural
from sb3_pg.update.trust_region import backtracking_step
from sb3_pg.update.weighting import current_log_prob
from sb3_pg.vanilla_pg.arguments import check_natural_gradient, step_defaults


class VanillaPG(PolicyGradientAlgorithm):
    """One gradient step an iteration, its advantages from a critic by GAE, the critic fitted by many steps of its own.

    Schulman et al. 2016, "High-dimensional continuous control using generalized advantage estimation"; that many
    critic steps are what a plain policy gradient needs to keep up with PPO: arXiv 2505.19247.
    Arguments beyond SB3's and those below:
    :class:`~sb3_pg.common.base_algorithm.PolicyGradientAlgorithm`.

        model = VanillaPG("MlpPolicy", "CartPole-v1").learn(50_000)

    By default its step is as long as a bound on the KL makes it, along the natural gradient
    (``benchmarks/defaults.py`` has what else was tried). A ``learning_rate`` or an optimizer asks for the plain one.
    Prefer it to REINFORCE where episodes are long or never end, and to A2C where a critic that keeps up matters. With
    ``value_learning_rate=None, n_value_updates=1`` and A2C's other settings it is A2C.

    :param learning_rate: of a plain step by Adam; None: 3e-3, or 0.3 where plain SGD steps along the natural gradient,
        1 with ``target_kl``
    :param n_steps: None: 2,048 shared out among the environments, at least 64 each; 8 for plain steps
    :param gae_lambda: 0 is the one-step TD error; 1 is what was earned until the episode's end less V, or where
        ``n_steps`` cuts the episode, what was earned until there plus V of the rest, less V: Monte Carlo only with
        whole episodes (``n_episodes``, or ``incomplete_episodes="carry"``)
    :param returns: None: ``"gae"``, or ``"reward_to_go"`` where ``baseline`` names no critic
    :param baseline: anything but ``"value"`` takes the critic away, and with it the defaults that need one
    :param incomplete_episodes: None: ``"bootstrap"``, or ``"carry"`` without a critic
    :param bootstrap_truncated: None: True, or False without a critic
    :param n_value_updates: None: 10 with ``value_learning_rate``, or 1
    :param value_learning_rate: by default 1e-3 with natural steps, in units of the targets; 3e-3 with plain ones, in
        the critic's own
    :param value_batch_size: 256 by default where the critic has an optimizer of its own, else None
    :param natural_gradient: step along F^-1 g instead of g, F the Fisher matrix of the policy on the batch (Kakade
        2001). The parameters that the policy depends on then take that step by plain SGD unless ``policy_kwargs``
        names an ``optimizer_class``, and the critic's own by Adam; ``max_grad_norm`` limits g. None: True, unless
        ``learning_rate``, an optimizer in ``policy_kwargs`` or a joint loss (``value_learning_rate=None``) says how
        long a plain step is
    :param cg_max_steps: conjugate-gradient iterations of the natural gradient, as in sb3-contrib's TRPO
    :param cg_damping: added to the diagonal of F
    :param target_kl: scale the natural step to sqrt(2 target_kl / g^T F^-1 g), where KL(old || new) over the states of
        the batch is ``target_kl`` to second order, times ``learning_rate``; None: learning_rate F^-1 g. With
        ``natural_gradient=None`` it asks for that step, and None is 0.02
    :param line_search_max_iter: with ``target_kl``, tries of a backtracking line search, which takes the first step
        that keeps the KL below ``target_kl`` and lowers the loss, or none (Schulman et al. 2015, "Trust region policy
        optimization", appendix C); 0: the step is taken as it is
    :param line_search_shrinking_factor: length of each try, as a share of the one before
    """

    def __init__(
        self,
        policy: str | PolicyClass,
        env: GymEnv | str,
        learning_rate: float | Schedule | None = None,
        n_steps: int | None = None,
        gamma: float = 0.99,
        gae_lambda: float = 0.95,
        ent_coef: float | Schedule = 0.0,
        vf_coef: float = 0.5,
        max_grad_norm: float | None = 0.5,
        use_sde: bool = False,
        sde_sample_freq: int = -1,
        rollout_buffer_class: type[RolloutBuffer] | None = None,
        rollout_buffer_kwargs: dict[str, Any] | None = None,
        normalize_advantage: bool = False,
        n_episodes: int | None = None,
        returns: Returns | None = None,
        baseline: str | float | Baseline = "value",
        discount_gradient: bool = False,
        loss_reduction: LossReduction = "step",
        incomplete_episodes: IncompleteEpisodes | None = None,
        bootstrap_truncated: bool | None = None,
        n_value_updates: int | None = None,
        value_learning_rate: float | Schedule | None = VALUE_LEARNING_RATE,
        value_batch_size: int | None = VALUE_BATCH_SIZE,
        normalize_value: bool | None = None,
        micro_batch_size: int | None = None,
        log_gradient_variance: bool = False,
        natural_gradient: bool | None = None,
        cg_max_steps: int = 15,
        cg_damping: float = 0.1,
        target_kl: float | None = None,
        line_search_max_iter: int = 10,
        line_search_shrinking_factor: float = 0.8,
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
        check_kwargs(policy_kwargs=policy_kwargs)
        if natural_gradient is not None:
            check_bool("natural_gradient", natural_gradient)
        step = step_defaults(
            natural_gradient, target_kl, learning_rate, n_steps, value_learning_rate, policy_kwargs or {}
        )
        super().__init__(
            policy,
            env,
            learning_rate=step.learning_rate,
            n_steps=step.n_steps,
            gamma=gamma,
            gae_lambda=gae_lambda,
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
            value_learning_rate=step.value_learning_rate,
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
            _init_setup_model=False,
        )
        self.natural_gradient = step.natural_gradient
        self.cg_max_steps = cg_max_steps
        self.cg_damping = cg_damping
        self.target_kl = step.target_kl
        self.line_search_max_iter = line_search_max_iter
        self.line_search_shrinking_factor = line_search_shrinking_factor
        if _init_setup_model:
            self._setup_model()

    def _setup_model(self) -> None:
        user_kwargs = self.policy_kwargs
        if self.natural_gradient:
            # Adam would divide the direction by the scale that it was computed to have
            self.policy_kwargs = {"optimizer_class": th.optim.SGD} | user_kwargs
        super()._setup_model()
        # load() compares what it is given with what was given
        self.policy_kwargs = user_kwargs

    def _check_arguments(self) -> None:
        super()._check_arguments()
        check_natural_gradient(
            self.natural_gradient,
            self.cg_max_steps,
            self.cg_damping,
            self.target_kl,
            self.line_search_max_iter,
            self.line_search_shrinking_factor,
            self.policy_kwargs.get("optimizer_class", th.optim.SGD),
        )

    @all_or_nothing
    def train(self) -> None:
        """One gradient step on the rollout, then the critic's own; none if there is nothing to learn from."""
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
        if self.natural_gradient:
            args = (self.cg_damping, self.cg_max_steps, self._rows_per_pass, self.target_kl)
            make_natural(self.policy, batch, *args)
            # Not to clip it again: the solver's direction may be infinite where g was not
            guarded_clip(self.policy.optimizer, losses.total, None)
        statistics |= logged_losses([losses]) | self._fit_critic(batch, value_loss) | {"grad_norm": grad_norm}
        statistics |= self._step(batch, weights, divisor)
        self._finish_update(batch, statistics)

    def _step(self, batch: EpisodeBatch, weights: th.Tensor, divisor: th.Tensor) -> dict[str, float]:
        """The optimizer's step, or as much of it as the line search accepts; what is logged of it."""
        optimizer = self.policy.optimizer
        if not self._is_bounded:
            optimizer.step()
            return {}
        divergence = Divergence(self.policy, batch, self._rows_per_pass)
        first_log_prob = current_log_prob(self.policy, batch, self._rows_per_pass)

        def surrogate_loss(log_prob: th.Tensor, rows: slice) -> th.Tensor:
            ratios = log_ratio(log_prob, first_log_prob[rows])
            return -clipped_surrogate(ratios, weights[rows], math.inf, divisor)

        loss_before = self._policy_loss(batch, surrogate_loss, divisor)

        def is_better() -> bool:
            within_bound = divergence.mean() <= cast(float, self.target_kl)
            return within_bound and self._policy_loss(batch, surrogate_loss, divisor) < loss_before

        if self.line_search_max_iter == 0:
            optimizer.step()
            return {"approx_kl": divergence.mean()}
        critic = set(own_parameters_of_critic(self.policy)) if self._has_joint_critic else set()
        factor, max_iter = self.line_search_shrinking_factor, self.line_search_max_iter
        with divergence.evaluation_mode():
            accepted = backtracking_step(optimizer, is_better, critic, factor, max_iter)
            return {"approx_kl": divergence.mean(), "is_line_search_success": float(accepted)}

    @property
    def _is_bounded(self) -> bool:
        """Whether steps are scaled to a bound on the KL."""
        return self.natural_gradient and self.target_kl is not None

    def _make_value_optimizer(self, parameters: list[nn.Parameter], learning_rate: float) -> th.optim.Optimizer:
        if self.natural_gradient and self.policy.optimizer_class is th.optim.SGD:
            # Plain steps suit the actor's direction alone; the rest as SB3's policies make theirs
            return th.optim.Adam(parameters, lr=learning_rate, eps=1e-5)
        return super()._make_value_optimizer(parameters, learning_rate)

    @property
    def _logged(self) -> list[str]:
        keys = [*super()._logged, "approx_kl"] if self._is_bounded else super()._logged
        return [*keys, "is_line_search_success"] if self._is_bounded and self.line_search_max_iter > 0 else keys
