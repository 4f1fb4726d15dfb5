"""The one collection loop."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.utils import obs_as_tensor
from stable_baselines3.common.vec_env import VecEnv

from sb3_pg.common.buffers import EpisodeRolloutBuffer
from sb3_pg.common.checks import check_finite
from sb3_pg.common.fast_actor import FastActor, fast_actor
from sb3_pg.common.passes import all_values
from sb3_pg.common.stock import is_stock
from sb3_pg.common.type_aliases import Baseline


class EpisodeCollector(OnPolicyAlgorithm):
    """An on-policy algorithm that fills an :class:`~sb3_pg.common.buffers.EpisodeRolloutBuffer`."""

    rollout_buffer: EpisodeRolloutBuffer
    baseline: str | Baseline
    n_episodes: int | None
    bootstrap_truncated: bool

    @property
    def uses_critic(self) -> bool:
        """Whether a critic is learned."""
        return self.baseline == "value"

    def collect_rollouts(
        self, env: VecEnv, callback: BaseCallback, rollout_buffer: RolloutBuffer, n_rollout_steps: int
    ) -> bool:
        """Collect a rollout: as in SB3, but rewards stay raw, and with ``n_episodes`` it may end early.

        :return: False if a callback ended the training
        :raises ValueError: for a reward or an observation that is not finite
        """
        buffer: EpisodeRolloutBuffer = rollout_buffer  # type: ignore[assignment]
        self.policy.set_training_mode(False)
        n_steps = 0
        rollout_buffer.reset()
        self._begin_quota(env, buffer)
        check_finite("The observation", self._last_obs, env.num_envs, self.num_timesteps)  # type: ignore[arg-type]
        if self.use_sde:
            self.policy.reset_noise(env.num_envs)
        callback.on_rollout_start()
        # Values and log-probs can wait for the end of the rollout: to be computed, or at least to leave the device
        takes_facts, evaluations = buffer.takes_facts, list[tuple[th.Tensor, th.Tensor]]()
        has_actor = takes_facts and is_stock(self.policy)
        actor = fast_actor(self.policy, env.num_envs, n_rollout_steps) if has_actor else None
        # Names that a callback may know from SB3; they stay None while the actor is alone
        not_yet: Any = None
        obs_tensor = values = log_probs = not_yet

        while n_steps < n_rollout_steps and not buffer.quota_filled:
            if self.use_sde and self.sde_sample_freq > 0 and n_steps % self.sde_sample_freq == 0:
                self.policy.reset_noise(env.num_envs)
            if actor is None:
                with th.no_grad():
                    obs_tensor = obs_as_tensor(self._last_obs, self.device)  # type: ignore[arg-type]
                    drawn, values, log_probs = self.policy(obs_tensor)
                evaluations.append((values, log_probs))
                actions = drawn.cpu().numpy()
            else:
                actions = actor.act(self._last_obs)  # type: ignore[arg-type]

            clipped_actions = self._env_actions(actions)
            new_obs, rewards, dones, infos = env.step(clipped_actions)

            self.num_timesteps += env.num_envs
            self._check_step(new_obs, rewards)  # type: ignore[arg-type]
            # Give access to local variables
            callback.update_locals(locals())
            if not callback.on_step():
                self._last_obs = None  # this step is lost: the next learn() resets the environments
                return False

            n_steps += 1
            if takes_facts:
                buffer.add_facts(self._last_obs, actions, rewards, self._last_episode_starts)  # type: ignore[arg-type]
            else:
                buffer.add(self._last_obs, actions, rewards, self._last_episode_starts, values, log_probs)  # type: ignore[arg-type]
            # A loop over all infos is what makes many environments slow (SB3 #1769): these are the ones that matter.
            ended = np.flatnonzero(dones)
            if len(ended) > 0:
                self._update_info_buffer([infos[idx] for idx in ended], dones[ended])
                buffer.add_episode_ends(ended, *self._episode_ends([infos[idx] for idx in ended]))
            self._last_obs = new_obs  # type: ignore[assignment]
            self._last_episode_starts = dones

        self._add_evaluations(buffer, actor, evaluations)
        buffer.compute_returns_and_advantage(self._edge_values(), self._last_episode_starts)  # type: ignore[arg-type]
        self.logger.record("rollout/episodes", 0 if buffer.batch is None else buffer.batch.episodes.n_episodes)
        self.logger.record("rollout/carried_steps", buffer.carried_steps)

        callback.update_locals(locals())
        callback.on_rollout_end()
        return True

    def _check_step(self, new_obs: np.ndarray | dict[str, np.ndarray], rewards: np.ndarray) -> None:
        """Refuse what is not finite; behind VecNormalize, which spreads it, look for where it came from."""
        try:
            check_finite("The observation", new_obs, self.n_envs, self.num_timesteps)
            check_finite("The reward", rewards, self.n_envs, self.num_timesteps)
        except ValueError:
            normalizer = self._vec_normalize_env
            if normalizer is not None:
                check_finite("The observation", normalizer.get_original_obs(), self.n_envs, self.num_timesteps)
                check_finite("The reward", normalizer.get_original_reward(), self.n_envs, self.num_timesteps)
            raise

    def _add_evaluations(
        self, buffer: EpisodeRolloutBuffer, actor: FastActor | None, evaluations: list[tuple[th.Tensor, th.Tensor]]
    ) -> None:
        """Give the buffer the values and log-probs that it has not been given step by step."""
        if actor is not None:
            observations, actions = buffer.rows_so_far()
            buffer.add_evaluation(all_values(self.policy, observations), actor.log_prob(actions))
        elif buffer.takes_facts:
            buffer.add_evaluation(*(th.cat(column) for column in zip(*evaluations, strict=True)))

    def _begin_quota(self, env: VecEnv, buffer: EpisodeRolloutBuffer) -> None:
        """Start every environment on a new episode when a new quota of whole episodes begins."""
        if self.n_episodes is None or buffer.carried_steps > 0 or np.all(self._last_episode_starts):
            return
        self._last_obs = env.reset()  # type: ignore[assignment]
        self._last_episode_starts = np.ones((env.num_envs,), dtype=bool)

    def _env_actions(self, actions: np.ndarray) -> np.ndarray:
        """Actions as the environment takes them: unscaled if the policy squashes, else clipped to the bounds."""
        if not isinstance(self.action_space, spaces.Box):
            return actions
        if self.policy.squash_output:
            return self.policy.unscale_action(actions)
        clipped: np.ndarray = np.clip(actions, self.action_space.low, self.action_space.high)
        return clipped

    def _episode_ends(self, infos: list[dict[str, Any]]) -> tuple[np.ndarray, np.ndarray]:
        """Of episodes that ended: whether a time limit ended them, and the value of what would have followed."""
        truncated = np.array([info.get("TimeLimit.truncated", False) for info in infos], dtype=bool)
        values = np.zeros(len(infos), dtype=np.float32)
        if self.bootstrap_truncated:
            for idx in np.flatnonzero(truncated):
                terminal_obs, _ = self.policy.obs_to_tensor(infos[idx]["terminal_observation"])
                with th.no_grad():
                    values[idx] = self.policy.predict_values(terminal_obs).item()
        return truncated, values

    def _edge_values(self) -> th.Tensor:
        """``(n_envs,)`` the critic's value of what follows the rollout, 0 without a critic."""
        if not self.uses_critic:
            return th.zeros(self.n_envs)
        with th.no_grad():
            return self.policy.predict_values(obs_as_tensor(self._last_obs, self.device)).flatten()  # type: ignore[arg-type]
