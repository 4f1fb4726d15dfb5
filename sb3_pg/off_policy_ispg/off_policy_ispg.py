"""OffPolicyISPG: several gradient steps on a batch, and batches used again, by importance weights."""

from __future__ import annotations

import io
import pathlib
from functools import partial
from typing import Any

import torch as th
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.type_aliases import GymEnv, Schedule
from stable_baselines3.common.utils import FloatSchedule

from sb3_pg.common.arguments import VALUE_BATCH_SIZE, VALUE_LEARNING_RATE, check_switches
from sb3_pg.common.reference import Reference, ReferencePenalty
from sb3_pg.common.whole_updates import all_or_nothing
from sb3_pg.data.batch import Baseline, Credit, IncompleteEpisodes, Returns
from sb3_pg.data.checks import check_choice, check_positive, check_schedule
from sb3_pg.estimators import (
    EPISODE_LEVELS,
    LEVELS,
    Importance,
    LossReduction,
    clipped_surrogate,
    log_ratio,
    score_function_surrogate,
)
from sb3_pg.off_policy_ispg.arguments import (
    CLIP_RANGE,
    ReusedAdvantages,
    check_critic_of_ispg,
    check_epochs,
    check_importance,
    check_reuse,
    check_trust_region,
    clip_default,
)
from sb3_pg.off_policy_ispg.trainer import ImportanceTrainer
from sb3_pg.off_policy_ispg.update import ScoreWeights, Step, mean_of
from sb3_pg.policies.maskable import PolicyClass
from sb3_pg.update.guard import guarded_clip
from sb3_pg.update.history import BatchHistory
from sb3_pg.update.history_file import load_history, save_history
from sb3_pg.update.trust_region import KLConstraint


class OffPolicyISPG(ImportanceTrainer):
    """Several gradient steps on every batch, by importance weights and within a trust region.

    ``importance="timestep"`` follows the surrogate of TRPO and PPO (Schulman et al. 2015, 2017), ``"trajectory"`` and
    ``"per_decision"`` the gradient of the return itself, with the noise of a product over the episode (Precup, Sutton
    & Singh 2000). Past batches join under the balance heuristic (Metelli et al. 2020). Arguments beyond SB3's and those
    below: :class:`~sb3_pg.common.base_algorithm.PolicyGradientAlgorithm`.

        model = OffPolicyISPG("MlpPolicy", "CartPole-v1").learn(50_000)

    Prefer it where batches are large or updates must stay near: several bounded steps get more out of a large batch
    than one does (``docs/results/samples.md``). Prefer REINFORCE or VanillaPG where the update must be the textbook's,
    and VanillaPG where batches can be small. With ``batch_size=64`` and PPO's other settings it is PPO. What was tried
    for the defaults: ``benchmarks/defaults.py``.

    :param batch_size: rows of a gradient step, drawn anew each epoch; None: the whole batch. The levels of whole
        episodes take as many episodes as it needs to fill it.
    :param n_epochs: passes over the batch, hence gradient steps if ``batch_size`` is None
    :param clip_range: epsilon of PPO's objective (or a schedule), None for weights without it. The ratio that it clips
        is that to the policy at the beginning of the update. By default 0.2, or None where the level of the weights,
        ``max_weight``, ``self_normalize`` or ``defensive_coef`` says how they are bounded.
    :param clip_range_vf: most that the critic's loss sees of a value's move in an update (or a schedule), as in SB3's
        PPO; None for all of it
    :param normalize_advantage: over the rows of each gradient step, as in SB3's PPO
    :param returns, baseline, incomplete_episodes, bootstrap_truncated, n_value_updates: as in
        :class:`~sb3_pg.VanillaPG`; anything but ``baseline="value"`` takes the critic away, and with it the defaults
        that need one. None is ``incomplete_episodes="carry"`` with the levels of whole episodes, and
        ``returns="reward_to_go"`` with ``"per_decision"``
    :param target_kl: KL(old || new) that an update should not pass, over the states of this rollout; None for no bound
    :param kl_constraint: what keeps it: ``"stop"`` takes no further step at 1.5 times the bound (as SB3's PPO, but by
        the KL in closed form, and over the rows of the step); ``"backtrack"`` undoes a step that would pass the bound
        and halves it until it does not, so that the bound holds after every update (of the actor's parameters; the
        critic's own take their whole step, and the running statistics of a batch normalisation move with every forward
        pass); ``"penalty"`` adds ``kl_coef`` *
        KL to the loss, and doubles or halves ``kl_coef`` after an update that came out far from the bound
    :param kl_coef: the penalty's first coefficient
    :param importance: ``"timestep"``, ``"per_decision"``, ``"trajectory"`` or ``"none"``; carried steps are weighted by
        it too, and by ``"none"`` not at all
    :param max_weight: weights are truncated here; None for no limit but that of the number format (which warns)
    :param self_normalize: divide the weights by their mean
    :param defensive_coef: alpha of p / ((1 - alpha) q + alpha p), which is never above 1 / alpha; 0 for none
    :param min_ess: no further step once the effective sample size is below this fraction of the rows; the first step
        of an update is always taken
    :param n_reused_batches: how many past batches each update uses again. Behind a VecNormalize their observations and
        rewards keep the statistics of their time: the policy is asked about the very numbers that its predecessor saw.
        See :meth:`save_replay_buffer`.
    :param reused_advantages: of those, ``"stored"``: what they were credited with when they were new, and the critic is
        fitted to the newest batch alone; ``"vtrace"``: what today's policy would earn from there, by today's critic
        (Espeholt et al. 2018; Queeney et al. 2021), and the critic is fitted to all batches, each row with its weight
    :param vtrace_max_ratio: where V-trace truncates the ratios of later steps; None for no limit
    """

    def __init__(
        self,
        policy: str | PolicyClass,
        env: GymEnv | str,
        learning_rate: float | Schedule = 3e-4,
        n_steps: int | None = None,
        batch_size: int | None = 256,
        n_epochs: int = 10,
        gamma: float = 0.99,
        gae_lambda: float = 0.95,
        clip_range: float | Schedule | None = CLIP_RANGE,
        clip_range_vf: float | Schedule | None = None,
        normalize_advantage: bool = False,
        ent_coef: float | Schedule = 0.0,
        vf_coef: float = 0.5,
        max_grad_norm: float | None = 0.5,
        use_sde: bool = False,
        sde_sample_freq: int = -1,
        rollout_buffer_class: type[RolloutBuffer] | None = None,
        rollout_buffer_kwargs: dict[str, Any] | None = None,
        target_kl: float | None = 0.02,
        kl_constraint: KLConstraint = "stop",
        kl_coef: float = 1.0,
        importance: Importance = "timestep",
        max_weight: float | None = None,
        self_normalize: bool = False,
        defensive_coef: float = 0.0,
        min_ess: float | None = None,
        n_reused_batches: int = 0,
        reused_advantages: ReusedAdvantages = "stored",
        vtrace_max_ratio: float | None = 1.0,
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
        check_choice("importance", importance, LEVELS)
        # What None stands for with the levels that multiply over whole episodes
        if importance in EPISODE_LEVELS and incomplete_episodes is None:
            incomplete_episodes = "carry"
        if importance == "per_decision" and returns is None:
            returns = "reward_to_go"
        clip_range = clip_default(clip_range, importance, max_weight, self_normalize, defensive_coef)
        super().__init__(
            policy,
            env,
            learning_rate=learning_rate,
            n_steps=n_steps,
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
            _init_setup_model=False,
        )
        self.batch_size, self.n_epochs = batch_size, n_epochs
        self.clip_range, self.clip_range_vf = clip_range, clip_range_vf
        self.target_kl, self.kl_coef = target_kl, kl_coef
        self.kl_constraint: KLConstraint = kl_constraint
        self.importance: Importance = importance
        self.max_weight, self.min_ess = max_weight, min_ess
        self.self_normalize, self.defensive_coef = self_normalize, defensive_coef
        self.n_reused_batches = n_reused_batches
        self.reused_advantages: ReusedAdvantages = reused_advantages
        self.vtrace_max_ratio = vtrace_max_ratio
        #: The batches that are used again.
        self.replay_buffer = BatchHistory(0)
        if _init_setup_model:
            self._setup_model()

    # --- setting up ------------------------------------------------------------------------------------------------

    def _setup_model(self) -> None:
        super()._setup_model()
        self.replay_buffer = BatchHistory(self.n_reused_batches)
        # Schedules from here on, as in SB3's PPO, whose users and callbacks look for them there
        self.clip_range = None if self.clip_range is None else FloatSchedule(self.clip_range)
        self.clip_range_vf = None if self.clip_range_vf is None else FloatSchedule(self.clip_range_vf)

    def _check_arguments(self) -> None:
        super()._check_arguments()
        check_epochs(self.n_epochs, self.batch_size, self.normalize_advantage)
        check_switches(self_normalize=self.self_normalize)
        for name in ("clip_range", "clip_range_vf"):
            value = getattr(self, name)
            if callable(value):
                check_schedule(name, value)
            else:
                check_positive(name, value, or_none="no clipping", may_be_infinite=False)
        # The RL Zoo's enjoy, which only looks at a model, puts a schedule of 0 in the place of whatever was saved
        is_unused = callable(self.clip_range) and self.clip_range(1.0) == 0
        check_importance(
            self.importance,
            self.returns,
            self.incomplete_episodes,
            self.max_weight,
            self.self_normalize,
            self.defensive_coef,
            None if is_unused else self.clip_range,
            self.min_ess,
            self.n_reused_batches,
        )
        check_critic_of_ispg(self.uses_critic, self.value_learning_rate, self.clip_range_vf, self.n_reused_batches)
        check_reuse(
            self.reused_advantages, self.vtrace_max_ratio, self.n_reused_batches, self.importance, self.uses_critic
        )
        check_trust_region(self.target_kl, self.kl_constraint, self.kl_coef)

    def _buffer_arguments(self) -> dict[str, Any]:
        own = super()._buffer_arguments()
        return own | {"keep_last_observations": True} if own and self.reused_advantages == "vtrace" else own

    def _excluded_save_params(self) -> list[str]:
        return [*super()._excluded_save_params(), "replay_buffer"]

    def save_replay_buffer(self, path: str | pathlib.Path | io.BufferedIOBase) -> None:
        """Write the batches that are used again to a file: a model saved with it goes on as if it had never stopped.

        :param path: as for SB3's off-policy algorithms; the file is there in one piece, or not at all
        """
        save_history(path, self.replay_buffer)

    def load_replay_buffer(self, path: str | pathlib.Path | io.BufferedIOBase, truncate_last_traj: bool = True) -> None:
        """Read what :meth:`save_replay_buffer` wrote. More than ``n_reused_batches`` of them are not kept.

        The file is tensors and plain data: nothing that is in it is run.

        :param truncate_last_traj: SB3's, without a meaning here: batches hold what was collected, cut or whole
        :raises ValueError: for a file that is damaged or holds something else, or the batches of another network
        """
        self.replay_buffer = load_history(path, self.policy, self.n_reused_batches, self.verbose)

    # --- learning --------------------------------------------------------------------------------------------------

    @all_or_nothing
    def train(self) -> None:
        """Up to ``n_epochs`` passes over the rollout and the batches kept; none if there is nothing to learn from."""
        batch = self._begin_update()
        if batch is None:
            return
        returns = self._returns(batch)
        advantages = self._advantages(batch, returns, self._baseline(batch, returns))
        credit = Credit(returns, advantages, self._value_targets(batch, returns))
        update = self._begin(batch, credit)
        clip_range = self._clip_range(self.clip_range)
        clip_range_vf = self._clip_range(self.clip_range_vf, "clip_range_vf")
        value_batch, value_loss = self._value_loss(update, batch, credit, clip_range_vf)

        def policy_loss(weights: ScoreWeights, log_prob: th.Tensor, rows: slice) -> th.Tensor:
            if clip_range is None:
                return -score_function_surrogate(log_prob, weights.at(rows, log_prob), weights.divisor)
            ratios = log_ratio(log_prob, weights.first_log_prob[rows])
            return -clipped_surrogate(ratios, weights.at_first[rows], clip_range, weights.divisor)

        statistics, steps = self._statistics_before(update, batch, advantages), list[Step]()
        self.policy.set_training_mode(True)
        for part, log_probs in self._parts(update):
            weights = ScoreWeights(update, part, log_probs)
            loss, penalties = partial(policy_loss, weights), update.region.penalties
            losses = self._gradient(update.sample.batch, part, loss, weights.divisor, value_loss, penalties)
            steps.append(Step(losses, guarded_clip(self.policy.optimizer, losses.total, self.max_grad_norm)))
            if len(steps) == 1:
                # Before the actor's first step: a critic's loss that is not finite finds the actor unchanged
                statistics |= self._fit_critic(value_batch, value_loss)
            update.is_over = not update.region.step(self.policy.optimizer)
        statistics = mean_of(steps) | statistics | self._statistics_after(update)
        self._finish_update(batch, statistics, update.n_epochs)
