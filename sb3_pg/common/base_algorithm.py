"""What the policy-gradient algorithms share: their arguments, and how they are set up and called."""

from __future__ import annotations

import operator
from typing import Any, ClassVar, TypeVar

import numpy as np
from gymnasium import spaces
from sb3_contrib.common.maskable.policies import MaskableActorCriticPolicy
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.policies import BasePolicy
from stable_baselines3.common.type_aliases import GymEnv, MaybeCallback, Schedule
from stable_baselines3.common.utils import FloatSchedule
from stable_baselines3.common.vec_env import VecEnv

from sb3_pg.common.arguments import (
    VALUE_LEARNING_RATE,
    arguments_of,
    check_buffer,
    check_buffer_arguments,
    check_critic,
    check_episodes,
    check_estimator,
    check_kwargs,
    check_learn,
    check_normalization,
    check_numbers,
    check_quota,
    check_sb3s,
    check_schedules,
    check_switches,
    critic_defaults,
    steps_for,
    without_critic,
)
from sb3_pg.common.building import check_policy_kwargs, naming_what_fails
from sb3_pg.common.reference import Reference, ReferencePenalty
from sb3_pg.common.saving import SavedAlgorithm
from sb3_pg.data.batch import Baseline, EpisodeBatch, IncompleteEpisodes, Returns
from sb3_pg.data.distributed import failing_together
from sb3_pg.estimators import LossReduction
from sb3_pg.policies.actor import WithoutCritic
from sb3_pg.policies.aliases import WITH_CRITIC, WITHOUT_CRITIC, maskable
from sb3_pg.policies.maskable import PolicyClass, check_policy_class, masked_predict, without_sde
from sb3_pg.rollout.buffers import EpisodeDictRolloutBuffer, EpisodeRolloutBuffer
from sb3_pg.rollout.masks import offers_masks

SelfAlgorithm = TypeVar("SelfAlgorithm", bound="PolicyGradientAlgorithm")


class PolicyGradientAlgorithm(SavedAlgorithm):
    """The base of REINFORCE and its relatives. Arguments that SB3's A2C has mean what they mean there.

    :param policy: ``"MlpPolicy"``, ``"CnnPolicy"``, ``"MultiInputPolicy"`` (with a critic if the baseline is one,
        without otherwise; one that takes action masks if the environment has ``action_masks()``), or a policy class
    :param env: the environment, or its id
    :param learning_rate: a number, or a function of the progress remaining (from 1 to 0)
    :param n_steps: steps of each environment per iteration, a hard cap with ``n_episodes``; None: 2,048 shared out
        among the environments, at least 64 each
    :param gamma: discount factor, in [0, 1]
    :param gae_lambda: lambda of ``returns="gae"``, in [0, 1]
    :param ent_coef: entropy coefficient, a number or a function of the progress remaining
    :param vf_coef: weight of the critic's loss in the joint loss
    :param max_grad_norm: largest norm of a gradient; None for no limit
    :param use_sde: generalised state-dependent exploration, for Box actions
    :param sde_sample_freq: steps between new noise matrices, -1 for once a rollout
    :param rollout_buffer_class: a subclass of :class:`~sb3_pg.rollout.buffers.EpisodeRolloutBuffer`
    :param rollout_buffer_kwargs: what it takes beyond SB3's arguments and this class's own, such as ``cut_length``
    :param normalize_advantage: shift and scale the advantages of a batch to mean 0 and deviation 1. Dividing keeps
        the gradient's direction; the shift is one more baseline, computed on the batch it is used on. A single row
        stays as it is, as in SB3's PPO.
    :param n_episodes: whole episodes per iteration, an equal quota for each environment (so ``n_envs`` must divide
        it). An environment that has played its quota waits: it is stepped on with the others, since a VecEnv
        knows no other way, and these steps count in ``num_timesteps`` but are not used. Each quota then begins
        with a reset. An episode that ``n_steps`` cuts goes on in the next iteration, whatever ``incomplete_episodes``
        says, and there is no update before the quota is filled. None: every episode that ends within ``n_steps``.
    :param returns: ``"reward_to_go"``, ``"total"`` or ``"gae"``: what a step is credited with
    :param baseline: what is subtracted from it: ``"none"``, ``"batch_mean"``, ``"time_mean"``, ``"leave_one_out"``,
        ``"time_leave_one_out"``, ``"group_leave_one_out"`` (of the episodes that began with the same observation, such
        as completions of one prompt), ``"optimal"`` (two backward passes an episode), ``"value"`` (a learned critic), a
        number, or a callable from a :class:`~sb3_pg.data.batch.ReturnsBatch` to ``(n_rows,)`` values or to one for all
    :param discount_gradient: weight step t by gamma^t. With gamma < 1 only then is the estimate the gradient of the
        discounted return from the start; without it, as is usual, it is the gradient of no objective, but learns
        late steps as eagerly as early ones (Thomas 2014; Nota & Thomas 2020). Not for ``returns="total"``, which is
        discounted from the start already, and whose gradient is that of the discounted return as it is.
    :param loss_reduction: what the sum over all steps is divided by. ``"episode"``: the number of episodes, the
        policy gradient itself. ``"step"``: the number of steps, SB3's habit; where episode lengths vary its
        expected direction is not that of the gradient. ``"mean_length"``: the number of episodes times
        a running mean of past batches' episode length, the direction of the first at the scale of the second.
    :param incomplete_episodes: what an episode cut by ``n_steps`` is worth. ``"carry"``: it waits and is used whole
        once it ends; steps that an earlier policy sampled are then weighted by pi(a|s) / pi_old(a|s), truncated at
        10. ``"bootstrap"``: the critic's value of the rest. ``"truncate"``: what was earned. ``"drop"``: nothing, which
        favours short episodes. An episode that never ends is cut, for ``"carry"``, after ten rollouts or 10,000 steps,
        whichever is more (the rest is worth the critic's value, nothing without a critic, and then counts as an
        episode); ``rollout_buffer_kwargs=dict(cut_length=...)`` sets another length.
    :param bootstrap_truncated: at a time limit add gamma * V(terminal observation) (with a critic; Pardo et al. 2018).
        False: a time limit is the end of the task.
    :param n_value_updates: passes of the critic's own optimizer over the batch per iteration
    :param value_learning_rate: its learning rate (or schedule); None: one joint loss and optimizer, as in A2C
    :param value_batch_size: rows of each of its steps, drawn anew in each pass; None: all, so that a pass is a step
    :param normalize_value: take those steps in units of the deviation of the critic's targets, so that one rate suits
        rewards of any scale; the critic's values keep their own units (van Hasselt et al. 2016, Pop-Art). None: True,
        unless ``value_learning_rate`` is given, which is then one of plain steps
    :param micro_batch_size: rows per backward pass; the gradient of the batch is accumulated. (Batch normalisation sees
        each piece alone.) None: on the CPU 4,096, which its cache holds, without batch normalisation; else all at once.
    :param log_gradient_variance: log ``train/gradient_snr``, at the price of a backward pass an episode; of the
        episodes of a batch, or where some were cut, of the environments, whose parts of the gradient are independent
    :param reference_policy: a policy to stay near: one, a model that has one, or the path of a saved model, of the same
        spaces. A frozen copy is kept and saved with the model; of a path, the path is.
    :param reference_coef: what straying costs, a number or a function of the progress remaining
    :param reference_penalty: ``"reward"``: of each step coef (log pi - log pi_ref), taken from its reward; ``"loss"``:
        coef KL(pi || pi_ref) over the states of the batch, which does not see that other actions lead to other states
    """

    policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = WITHOUT_CRITIC
    critic_policy_aliases: ClassVar[dict[str, type[BasePolicy]]] = WITH_CRITIC
    #: The names that ``returns`` takes.
    supported_returns: ClassVar[tuple[str, ...]] = ("reward_to_go", "total", "gae")

    def __init__(
        self,
        policy: str | PolicyClass,
        env: GymEnv | str,
        *,
        learning_rate: float | Schedule,
        n_steps: int | None,
        gamma: float,
        ent_coef: float | Schedule,
        vf_coef: float,
        max_grad_norm: float | None,
        use_sde: bool,
        sde_sample_freq: int,
        rollout_buffer_class: type[RolloutBuffer] | None,
        rollout_buffer_kwargs: dict[str, Any] | None,
        normalize_advantage: bool,
        n_episodes: int | None,
        returns: Returns | None,
        baseline: str | float | Baseline,
        discount_gradient: bool,
        loss_reduction: LossReduction,
        incomplete_episodes: IncompleteEpisodes | None,
        bootstrap_truncated: bool | None,
        n_value_updates: int | None,
        value_learning_rate: float | Schedule | None,
        value_batch_size: int | None,
        normalize_value: bool | None,
        micro_batch_size: int | None,
        log_gradient_variance: bool,
        reference_policy: Reference | None,
        reference_coef: float | Schedule,
        reference_penalty: ReferencePenalty,
        gae_lambda: float = 1.0,
        _init_setup_model: bool = True,
        **kwargs: Any,
    ):
        # Before SB3's constructor, which asks for the policy's class, and that depends on the baseline.
        self.baseline = baseline
        self._checked: list[object] = []
        check_sb3s(
            policy=policy,
            use_sde=use_sde,
            sde_sample_freq=sde_sample_freq,
            rollout_buffer_kwargs=rollout_buffer_kwargs,
            **kwargs,
        )
        super().__init__(
            policy,
            env,
            learning_rate=learning_rate,
            n_steps=n_steps,  # None becomes a number below, before anything reads it
            gamma=gamma,
            gae_lambda=gae_lambda,
            ent_coef=ent_coef,
            vf_coef=vf_coef,
            max_grad_norm=max_grad_norm,
            use_sde=use_sde,
            sde_sample_freq=sde_sample_freq,
            rollout_buffer_class=rollout_buffer_class,
            rollout_buffer_kwargs=rollout_buffer_kwargs,
            supported_action_spaces=(spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary),
            _init_setup_model=False,
            **kwargs,
        )
        if isinstance(policy, str) and self.env is not None and offers_masks(self.env, self.action_space):
            self.policy_class = maskable(self.policy_class)
        self.normalize_advantage = normalize_advantage
        self.n_episodes = n_episodes
        self.discount_gradient = discount_gradient
        self.loss_reduction: LossReduction = loss_reduction
        self.value_learning_rate = value_learning_rate if self.uses_critic else without_critic(value_learning_rate)
        has_own_optimizer = self.uses_critic and self.value_learning_rate is not None
        defaults = critic_defaults(self.uses_critic, has_own_optimizer)
        self.returns: Returns = defaults.returns if returns is None else returns
        self.incomplete_episodes: IncompleteEpisodes = (
            defaults.incomplete_episodes if incomplete_episodes is None else incomplete_episodes
        )
        self.bootstrap_truncated = defaults.bootstrap_truncated if bootstrap_truncated is None else bootstrap_truncated
        self.n_value_updates = defaults.n_value_updates if n_value_updates is None else n_value_updates
        self.value_batch_size = value_batch_size if has_own_optimizer else without_critic(value_batch_size)
        rate_is_ours = self.value_learning_rate is VALUE_LEARNING_RATE
        self.normalize_value = rate_is_ours if normalize_value is None else normalize_value
        self.micro_batch_size = micro_batch_size
        self.log_gradient_variance = log_gradient_variance
        self.reference_policy = reference_policy
        self.reference_coef = reference_coef
        self.reference_penalty = reference_penalty
        if env is not None:
            check_quota(n_episodes, self.n_envs)
            self.n_steps = steps_for(self.n_envs) if n_steps is None else n_steps
        if _init_setup_model:
            self._setup_model()

    def _get_policy_from_name(self, policy_name: str) -> type[BasePolicy]:
        aliases = self.critic_policy_aliases if self.uses_critic else self.policy_aliases
        if policy_name not in aliases:
            raise ValueError(f"policy must be one of {', '.join(map(repr, aliases))} or a class, got {policy_name!r}")
        return aliases[policy_name]

    # --- setting up ------------------------------------------------------------------------------------------------

    def _setup_model(self) -> None:
        for name, value in vars(self).items():
            if isinstance(value, np.generic):  # a number is a number, and NumPy's long double another than Python's
                setattr(self, name, float(value) if isinstance(value, np.floating) else value.item())
        self._check_arguments()
        if self.rollout_buffer_class is None:
            is_dict = isinstance(self.observation_space, spaces.Dict)
            self.rollout_buffer_class = EpisodeDictRolloutBuffer if is_dict else EpisodeRolloutBuffer
        check_buffer(self.rollout_buffer_class, self.observation_space)
        # The buffer's share of our arguments joins the user's for the time that SB3 takes to build it.
        user_kwargs, own = self.rollout_buffer_kwargs, self._buffer_arguments()
        if both := sorted(user_kwargs.keys() & own.keys()):
            raise ValueError(
                f"rollout_buffer_kwargs sets {', '.join(both)}: give {type(self).__name__} itself that argument instead"
            )
        self.rollout_buffer_kwargs = user_kwargs | own
        policy_class: Any = self.policy_class
        if issubclass(policy_class, MaskableActorCriticPolicy):
            self.policy_class = without_sde(policy_class)  # type: ignore[assignment]  # for the same time
        check_policy_kwargs(policy_class, self.policy_kwargs, self.device)
        with naming_what_fails(self, policy_class, user_kwargs):
            super()._setup_model()
        self.rollout_buffer_kwargs, self.policy_class = user_kwargs, policy_class
        if self.value_learning_rate is not None:
            self.value_lr_schedule = FloatSchedule(self.value_learning_rate)
            self._separate_critic()
        self._restore_reference()

    def _check_arguments(self) -> None:
        """Refuse arguments that are wrong, alone or together. A loaded model has its own when this is called."""
        if getattr(self, "observation_space", None) is None:
            raise ValueError("env must be an environment or its id, got None: only load() does without one")
        check_numbers(
            self.n_steps,
            self.gamma,
            self.gae_lambda,
            self.max_grad_norm,
            self.n_value_updates,
            self.value_batch_size,
            self.micro_batch_size,
            self.vf_coef,
        )
        check_schedules(
            learning_rate=self.learning_rate, ent_coef=self.ent_coef, value_learning_rate=self.value_learning_rate
        )
        check_switches(
            normalize_advantage=self.normalize_advantage,
            discount_gradient=self.discount_gradient,
            bootstrap_truncated=self.bootstrap_truncated,
            log_gradient_variance=self.log_gradient_variance,
            normalize_value=self.normalize_value,
        )
        check_estimator(
            self.returns,
            self.supported_returns,
            self.baseline,
            self.loss_reduction,
            self.incomplete_episodes,
            self.discount_gradient,
        )
        check_episodes(self.n_episodes, self.baseline)
        check_normalization(
            self.normalize_advantage, self.incomplete_episodes, self.n_episodes, self.n_steps, self.n_envs
        )
        check_kwargs(rollout_buffer_kwargs=self.rollout_buffer_kwargs)
        check_policy_class(self.policy_class, self.policy_aliases, self.action_space)
        check_critic(
            not issubclass(self.policy_class, WithoutCritic),
            self.baseline,
            self.incomplete_episodes,
            self.bootstrap_truncated,
            self.n_value_updates,
            self.value_learning_rate,
            self.value_batch_size,
            self.normalize_value,
        )

    def _buffer_arguments(self) -> dict[str, Any]:
        """What an episode buffer has to know of this algorithm's arguments; nothing for a foreign class."""
        buffer_class: object = self.rollout_buffer_class or EpisodeRolloutBuffer
        if not (isinstance(buffer_class, type) and issubclass(buffer_class, EpisodeRolloutBuffer)):
            return {}
        return {
            "returns": self.returns,
            # The optimal one is known when the policy's scores are: until then the buffer shows plain returns
            "baseline": "none" if self.baseline == "optimal" else self.baseline,
            "incomplete_episodes": self.incomplete_episodes,
            # A model may be loaded onto any number of environments to predict: learn() checks that it is a share
            "episodes_per_env": None if self.n_episodes is None else max(1, self.n_episodes // self.n_envs),
        }

    def _setup_learn(self, *args: Any, **kwargs: Any) -> tuple[int, BaseCallback]:
        if not isinstance(self.rollout_buffer, EpisodeRolloutBuffer):
            raise ValueError(
                f"{type(self).__name__} learns from whole episodes, which a {type(self.rollout_buffer).__name__} does "
                "not keep. Leave rollout_buffer_class out, or subclass sb3_pg.EpisodeRolloutBuffer."
            )
        check_quota(self.n_episodes, self.n_envs)
        return super()._setup_learn(*args, **kwargs)

    def _check_changed(self) -> None:
        """Refuse nonsense that a callback has put in the place of an argument since this was asked last."""
        arguments = list(map(vars(self).get, arguments_of(type(self))))
        if len(arguments) != len(self._checked) or not all(map(operator.is_, arguments, self._checked)):
            self._check_arguments()
            self._checked = arguments
        check_buffer_arguments(self.rollout_buffer, self.n_steps)

    def collect_rollouts(
        self, env: VecEnv, callback: BaseCallback, rollout_buffer: RolloutBuffer, n_rollout_steps: int
    ) -> bool:
        """Collect a rollout, as the arguments are now: see :class:`~sb3_pg.rollout.collector.EpisodeCollector`."""
        self._check_changed()
        return super().collect_rollouts(env, callback, rollout_buffer, n_rollout_steps)

    def _begin_update(self) -> EpisodeBatch | None:
        with failing_together():
            self._check_changed()
        return super()._begin_update()

    def learn(
        self: SelfAlgorithm,
        total_timesteps: int,
        callback: MaybeCallback = None,
        log_interval: int | None = 1,
        tb_log_name: str | None = None,
        reset_num_timesteps: bool = True,
        progress_bar: bool = False,
        use_masking: bool = True,
    ) -> SelfAlgorithm:
        """As in SB3; ``tb_log_name`` is the name of the class unless given.

        :param use_masking: give a maskable policy the environments' action masks; False: everything is allowed
        :raises ValueError: for what is no such argument, before anything is done; for arguments of the model that a
            callback has set to what they cannot be, at their next use; for a maskable policy, if the environment has no
            ``action_masks()``
        """
        check_learn(total_timesteps, callback, log_interval, tb_log_name)
        check_switches(reset_num_timesteps=reset_num_timesteps, progress_bar=progress_bar, use_masking=use_masking)
        self.use_masking = use_masking
        try:
            return super().learn(
                total_timesteps=total_timesteps,
                callback=callback,
                log_interval=log_interval,
                tb_log_name=type(self).__name__ if tb_log_name is None else tb_log_name,
                reset_num_timesteps=reset_num_timesteps,
                progress_bar=progress_bar,
            )
        except BaseException:  # Ctrl-C too
            # The environments may be a step ahead of the last observation: have the next learn() reset them.
            self._last_obs = None
            raise

    def predict(
        self,
        observation: np.ndarray | dict[str, np.ndarray],
        state: tuple[np.ndarray, ...] | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
        action_masks: Any = None,
    ) -> tuple[np.ndarray, tuple[np.ndarray, ...] | None]:
        """As in SB3.

        :param action_masks: ``(n,)`` of one observation or ``(n_envs, n)`` of several, True for what is allowed; None
            for everything
        :raises ValueError: for masks that are none, or a policy that takes none
        """
        if action_masks is None:
            return super().predict(observation, state, episode_start, deterministic)
        return masked_predict(self.policy, action_masks, observation, state, episode_start, deterministic)

    def _update_current_progress_remaining(self, num_timesteps: int, total_timesteps: int) -> None:
        # The last rollout may go past the end: a schedule that falls to 0 would go on falling, and the update uphill
        super()._update_current_progress_remaining(min(num_timesteps, total_timesteps), total_timesteps)
