"""The one collection loop."""

from __future__ import annotations

import sys
import warnings
from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.utils import obs_as_tensor
from stable_baselines3.common.vec_env import VecEnv

from sb3_pg.checkpoints import ResumableAlgorithm
from sb3_pg.data.batch import Baseline
from sb3_pg.data.checks import check_finite, is_all_finite
from sb3_pg.data.extras import ACTION_MASKS
from sb3_pg.envs.drain import drain
from sb3_pg.policies.parameters import check_parameters
from sb3_pg.policies.sequence.sequences import Memory
from sb3_pg.rollout.acting import RolloutActor
from sb3_pg.rollout.buffers import EpisodeRolloutBuffer
from sb3_pg.rollout.normalizer import NormalizerStatistics


class EpisodeCollector(ResumableAlgorithm):
    """An on-policy algorithm that fills an :class:`~sb3_pg.rollout.buffers.EpisodeRolloutBuffer`."""

    rollout_buffer: EpisodeRolloutBuffer
    baseline: str | float | Baseline
    n_episodes: int | None
    bootstrap_truncated: bool
    #: Whether a maskable policy is given the environments' action masks.
    use_masking: bool = True

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self._warned: set[str] = set()
        # Whether environments that waited for others have played more than their quota
        self._played_on = False
        #: What a policy that remembers knows of the running episodes.
        self._last_memory: Memory | None = None

    @property
    def uses_critic(self) -> bool:
        """Whether a critic is learned."""
        return isinstance(self.baseline, str) and self.baseline == "value"

    def collect_rollouts(
        self, env: VecEnv, callback: BaseCallback, rollout_buffer: RolloutBuffer, n_rollout_steps: int
    ) -> bool:
        """Collect a rollout: as in SB3, but rewards stay raw, and with ``n_episodes`` it may end early.

        :return: False if a callback ended the training
        :raises ValueError: for a reward, an observation, an action or a log-prob that is not finite, or action masks
            that are none
        """
        buffer: EpisodeRolloutBuffer = rollout_buffer  # type: ignore[assignment]
        self.policy.set_training_mode(False)
        n_steps = 0
        rollout_buffer.reset()
        self._at_edge()
        self._begin_quota(buffer)
        if self.use_sde:
            self.policy.reset_noise(env.num_envs)
        callback.on_rollout_start()
        given = (callback, env, self.use_masking, self._last_memory)
        actor = RolloutActor(self.policy, buffer, n_rollout_steps, *given)
        statistics = NormalizerStatistics(env)

        while n_steps < n_rollout_steps and not buffer.quota_filled:
            if self.use_sde and self.sde_sample_freq > 0 and n_steps % self.sde_sample_freq == 0:
                self.policy.reset_noise(env.num_envs)
            actions = actor.act(self._last_obs, self._last_episode_starts)  # type: ignore[arg-type]
            # Names that a callback may know from SB3: None while a fast actor is at work
            obs_tensor, values, log_probs = actor.said
            action_masks = actor.extras.get(ACTION_MASKS)

            clipped_actions = self._env_actions(actions)
            statistics.keep()
            # Noted before the step: an environment may write what it observes, and what is done, into the same arrays
            buffer.begin_step(self._last_obs)  # type: ignore[arg-type]
            if actor.extras:
                buffer.add_extras(actor.extras)
            new_obs, rewards, dones, infos = env.step(clipped_actions)

            self.num_timesteps += env.num_envs
            self._check_step(new_obs, rewards, dones, infos, statistics)  # type: ignore[arg-type]
            # Give access to local variables
            callback.update_locals(locals())
            if not callback.on_step():
                self._last_obs = None  # this step is lost: the next learn() resets the environments
                return False

            n_steps += 1
            buffer.end_step(actions, rewards, self._last_episode_starts, values, log_probs)  # type: ignore[arg-type]
            actor.follow(self.policy)
            # A loop over all infos is what makes many environments slow (SB3 #1769): these are the ones that matter.
            # Looked for after the callback, which may have ended others.
            ended = np.asarray(dones).nonzero()[0]
            if len(ended) > 0:
                ended_infos = [infos[idx] for idx in ended.tolist()]
                self._update_info_buffer(ended_infos, np.ones(len(ended), dtype=bool))
                buffer.add_episode_ends(ended, *self._episode_ends(ended, ended_infos, actor))
            self._last_obs = new_obs  # type: ignore[assignment]
            self._last_episode_starts = np.array(dones, dtype=bool)

        self._last_memory = actor.finish()
        self._check_policy(buffer)
        self._keep_edge(buffer)
        buffer.compute_returns_and_advantage(self._edge_values(actor), self._last_episode_starts)  # type: ignore[arg-type]
        self.logger.record("rollout/episodes", buffer.n_episodes_ended)
        self.logger.record("rollout/carried_steps", buffer.carried_steps)

        callback.update_locals(locals())
        callback.on_rollout_end()
        return True

    def _check_step(
        self,
        new_obs: np.ndarray | dict[str, np.ndarray],
        rewards: np.ndarray,
        dones: np.ndarray,
        infos: list[dict[str, Any]],
        statistics: NormalizerStatistics,
    ) -> None:
        """Refuse what is not finite; what a VecNormalize was given first, since it spreads NaN and clips infinity."""
        try:
            for normalizer in reversed(statistics.normalizers):
                check_finite("The observation", normalizer.old_obs, self.n_envs, self.num_timesteps)
                check_finite("The reward", normalizer.old_reward, self.n_envs, self.num_timesteps)
            check_finite("The observation", new_obs, self.n_envs, self.num_timesteps)
            check_finite("The reward", rewards, self.n_envs, self.num_timesteps)
            if self.bootstrap_truncated:
                self._check_last_observations(np.asarray(dones).nonzero()[0], infos)
            self._check_statistics(statistics)
        except ValueError:
            statistics.restore()
            raise

    def _check_last_observations(self, envs: np.ndarray, infos: list[dict[str, Any]]) -> None:
        """Refuse those of episodes that a time limit ended, if they are not finite: their value would not be either."""
        for env in envs.tolist():
            last_obs = infos[env].get("terminal_observation")
            if last_obs is not None and infos[env].get("TimeLimit.truncated", False):
                parts = last_obs if isinstance(last_obs, dict) else {"": last_obs}
                batched = {key: np.asarray(part)[None] for key, part in parts.items()}
                check_finite("The terminal observation", batched, 1, self.num_timesteps, first_env=env)

    def _check_statistics(self, statistics: NormalizerStatistics) -> None:
        if not statistics.are_finite():
            raise ValueError(
                f"After time step {self.num_timesteps} a running variance of VecNormalize would be no float32: an "
                "observation or a reward is finite, but its square is not. Model and VecNormalize are as they were "
                "before this step and can be saved; mend the environment, or clip what it gives."
            )

    def _check_policy(self, buffer: EpisodeRolloutBuffer) -> None:
        """Refuse a rollout of a policy that is no distribution: some draw actions all the same."""
        said = {"log-prob": buffer.log_probs} | ({"value": buffer.values} if self.uses_critic else {})
        for what, column in said.items():
            if not is_all_finite(given := np.asarray(column)[: buffer.pos]):
                check_parameters(self.policy)
                raise ValueError(
                    f"The policy gave a {what} that is not finite in this rollout "
                    f"({given[~np.isfinite(given)][0]}), though its parameters are finite: its observations may be too "
                    "large (VecNormalize scales them), or a learning rate was. Nothing was learned from this rollout."
                )

    def _setup_learn(self, *args: Any, **kwargs: Any) -> tuple[int, BaseCallback]:
        check_parameters(self.policy)
        if self.env is not None:
            drain(self.env)
        statistics = NormalizerStatistics(self.env)
        result = super()._setup_learn(*args, **kwargs)
        self._check_reset(statistics)
        return result

    def _check_reset(self, statistics: NormalizerStatistics) -> None:
        """Refuse first observations that are not finite, and have VecNormalize forget them."""
        try:
            for normalizer in reversed(statistics.normalizers):
                if (original := getattr(normalizer, "old_obs", None)) is not None:  # none before the first reset
                    check_finite("The observation", original, self.n_envs, self.num_timesteps)
            check_finite("The observation", self._last_obs, self.n_envs, self.num_timesteps)  # type: ignore[arg-type]
            self._check_statistics(statistics)
        except ValueError:
            statistics.restore()
            raise

    def _begin_quota(self, buffer: EpisodeRolloutBuffer) -> None:
        """Start every environment on a new episode when a new quota of whole episodes begins."""
        if self.n_episodes is None or buffer.carried_steps > 0:
            return
        if np.all(self._last_episode_starts) and not self._played_on:
            return
        self._reset_environments()

    def _reset_environments(self) -> None:
        statistics = NormalizerStatistics(self.env)
        super()._reset_environments()
        self._check_reset(statistics)

    def _hold_rollout(self) -> None:
        self.rollout_buffer.hold()

    def _restart_episodes(self) -> None:
        super()._restart_episodes()
        self.rollout_buffer.forget()

    def _env_actions(self, actions: np.ndarray) -> np.ndarray:
        """Actions as the environment takes them: unscaled if the policy squashes, else clipped to the bounds."""
        if not isinstance(self.action_space, spaces.Box):
            return actions
        if not is_all_finite(actions):
            self._refuse_actions(actions)
        if self.policy.squash_output:
            return self.policy.unscale_action(actions)
        clipped: np.ndarray = np.clip(actions, self.action_space.low, self.action_space.high)
        return clipped

    def _refuse_actions(self, actions: np.ndarray) -> None:
        check_parameters(self.policy)
        env = int(np.flatnonzero(~np.isfinite(actions).reshape(len(actions), -1).all(axis=1))[0])
        raise ValueError(
            f"The action of environment {env} at time step {self.num_timesteps + self.n_envs} is not finite: "
            f"{actions[env]}. It was not played, and the model is as it was before this rollout. The policy's "
            "parameters are finite: look at its noise (use_sde), and at how large its observations are."
        )

    def _episode_ends(
        self, envs: np.ndarray, infos: list[dict[str, Any]], actor: RolloutActor
    ) -> tuple[np.ndarray, np.ndarray]:
        """Of episodes that ended: whether a time limit ended them, and the value of what would have followed.

        As in SB3, a time limit without its last observation is the end of the task.

        :param envs: ``(n,)`` the environments
        :param infos: what each said
        :param actor: which has played the step
        """
        truncated = np.array([bool(info.get("TimeLimit.truncated", False)) for info in infos], dtype=bool)
        values = np.zeros(len(infos), dtype=np.float32)
        if self.bootstrap_truncated:
            for idx in np.flatnonzero(truncated):
                last_obs = infos[idx].get("terminal_observation")
                if last_obs is None:
                    self._warn_once(
                        "The infos of an episode that a time limit ended have no 'terminal_observation', so there is "
                        "no value to bootstrap with: it counts as the end of the task. SB3's VecEnvs give it."
                    )
                    continue
                terminal_obs, _ = self.policy.obs_to_tensor(last_obs)
                env = int(envs[idx])
                values[idx] = actor.next_values(terminal_obs, slice(env, env + 1)).item()
                self.rollout_buffer.keep_last_observation(envs[[idx]], [last_obs])
        return truncated, values

    def _warn_once(self, message: str) -> None:
        """Warn at the line of the user's that calls ``learn()``, of the same thing only once."""
        if message in self._warned:
            return
        self._warned.add(message)
        frame, level = sys._getframe(1), 2
        while frame.f_back is not None and frame.f_globals.get("__name__", "").startswith(
            ("sb3_pg.", "stable_baselines3.")
        ):
            frame, level = frame.f_back, level + 1
        warnings.warn(message, UserWarning, stacklevel=level)

    def _keep_edge(self, buffer: EpisodeRolloutBuffer) -> None:
        """Have the buffer keep what the episodes that go on have observed last; note who has played on."""
        self._played_on = buffer.quota_exceeded
        if buffer.keep_last_observations:
            envs, last_obs = np.flatnonzero(np.logical_not(self._last_episode_starts)), self._last_obs  # type: ignore[arg-type]
            parts: Any = last_obs if isinstance(last_obs, dict) else {"": last_obs}
            observed = [{key: part[env] for key, part in parts.items()} for env in envs]
            buffer.keep_last_observation(envs, observed)

    def _edge_values(self, actor: RolloutActor) -> th.Tensor:
        """``(n_envs,)`` the critic's value of what follows the rollout, 0 without a critic."""
        if not self.uses_critic:
            return th.zeros(self.n_envs)
        return actor.next_values(obs_as_tensor(self._last_obs, self.device))  # type: ignore[arg-type]
