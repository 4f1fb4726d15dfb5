"""Gymnasium's vector environments, as SB3's VecEnv.

A step that ends an episode returns the first observation of the next: see :mod:`sb3_pg.envs.autoreset`.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.envs.classic_control.cartpole import CartPoleVectorEnv
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv, VectorEnv, VectorWrapper
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices

from sb3_pg.envs.autoreset import with_masked_reset
from sb3_pg.envs.infos import info_of, keep_rows
from sb3_pg.envs.statistics import EpisodeStatistics
from sb3_pg.envs.sub_envs import MonitoredSubEnvs, sub_envs_of

#: ``(n_envs, ...)``, or a dictionary of such
Batch = np.ndarray | dict[str, np.ndarray]

#: Many environments that are not written in Python keep seeds, one after the other, in 32 bits with a sign.
MAX_SEED = 2**31

SIMPLE_SPACES = (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)


class GymnasiumVecEnv(VecEnv):
    """A ``gymnasium.vector.VectorEnv`` as SB3's VecEnv, with SB3's meaning of a done and a Monitor's statistics.

    :param vector_env: in any autoreset mode; in NEXT_STEP mode, Gymnasium's own environments without a wrapper around
        them. From now on it is stepped by nothing else. DISABLED is the most exact: in SAME_STEP mode an environment
        must not write its first observation into the array of the last. Under wrappers, Gymnasium's Sync and Async
        environments (1.4) put the infos of all into one array, of the type of the first (0.25 after a 1 becomes 0).
    :param record_episode_statistics: give ``infos[i]["episode"]`` at the end of each episode, as a Monitor around each
        environment would. Where there is such a Monitor already, its own statistics are left alone. Turn it off under
        a VecMonitor.
    :param step_infos: give each environment's infos in every step. False: only at the end of an episode, which is all
        that SB3 and its wrappers ask for, and faster where many environments report something in every step.
    :raises ValueError: if its observation space is not one of SB3's, or it cannot be reset as SB3 needs it
    """

    def __init__(
        self,
        vector_env: VectorEnv[Any, Any, Any],
        record_episode_statistics: bool = True,
        step_infos: bool = True,
    ) -> None:
        check_vector_env(vector_env)
        self.vector_env, self._same_step = with_masked_reset(vector_env)
        self.step_infos = step_infos
        keep_rows(vector_env)
        self._sub_envs = sub_envs_of(vector_env)
        # Sync and Async reset exactly who is in the mask; wrappers may transform anew what they are given again.
        self._doubt_masks = type(vector_env) not in (SyncVectorEnv, AsyncVectorEnv, CartPoleVectorEnv)
        self._doubt_masks &= not isinstance(vector_env, VectorWrapper)
        copies = type(vector_env) in (SyncVectorEnv, AsyncVectorEnv) and getattr(vector_env, "copy", False)
        self._fresh_obs = copies or type(vector_env) is CartPoleVectorEnv
        super().__init__(vector_env.num_envs, vector_env.single_observation_space, vector_env.single_action_space)
        self.metadata |= {key: value for key, value in vector_env.metadata.items() if key != "autoreset_mode"}
        self._statistics: EpisodeStatistics | None = None
        if record_episode_statistics and not any(self._sub_envs.wrapped(Monitor, range(self.num_envs))):
            self._statistics = EpisodeStatistics(self.num_envs)
            self._sub_envs = MonitoredSubEnvs(self._sub_envs, self._statistics)
        self._blank_infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        self._closed = False

    # Stepping

    def reset(self) -> Batch:
        """Reset all environments, with the seed and the options that are waiting for it.

        :return: the first observations, ``(n_envs, ...)``
        """
        seed = None if self._seeds[0] is None else int(self._seeds[0])
        try:
            obs, infos = self.vector_env.reset(seed=seed, options=self._common_options())
        except (TypeError, OverflowError) as error:
            if seed is None or 0 <= seed < MAX_SEED - self.num_envs:
                raise
            raise ValueError(
                f"{self.vector_env} does not take the seed {seed}: write one from 0 to 2**31 - {self.num_envs + 1}"
            ) from error
        self._reset_seeds()
        self._reset_options()
        if self._statistics is not None:
            self._statistics.reset()
        self.reset_infos = [info_of(infos, idx) for idx in range(self.num_envs)]
        return self._owned(obs)

    def step_async(self, actions: np.ndarray) -> None:
        """Keep the actions, ``(n_envs, ...)``, for :meth:`step_wait`."""
        self._actions = np.asarray(actions)

    def step_wait(self) -> tuple[Batch, np.ndarray, np.ndarray, list[dict[str, Any]]]:
        """Step all environments, and reset those that are done.

        :return: observations ``(n_envs, ...)``, rewards ``(n_envs,)`` in float32, dones ``(n_envs,)``, infos
        """
        obs, rewards, terminated, truncated, infos = self.vector_env.step(self._actions)
        dones = np.logical_or(terminated, truncated)
        if self._statistics is not None:
            self._statistics.step(rewards)
        owned = self._owned(obs)
        if infos and self.step_infos:
            step_infos = [info_of(infos, idx) for idx in range(self.num_envs)]
        else:
            step_infos = self._no_infos()
        if dones.any():
            time_limit = np.logical_and(truncated, np.logical_not(terminated))
            self._end_episodes(owned, dones, time_limit, infos, step_infos)
        return owned, np.array(rewards, dtype=np.float32), dones, step_infos

    def _end_episodes(
        self,
        obs: Batch,
        dones: np.ndarray,
        time_limit: np.ndarray,
        infos: dict[str, Any],
        step_infos: list[dict[str, Any]],
    ) -> None:
        """Put first observations of new episodes in the place of the last of old ones, which go to the infos."""
        ended: list[int] = np.flatnonzero(dones).tolist()
        last_infos = [info_of(infos, idx) for idx in ended]
        if self._same_step:
            first_infos = last_infos
            last_obs = [self._final_obs(info) for info in first_infos]
            last_infos = [info.pop("final_info", None) or {} for info in first_infos]
        else:
            last_obs = [row_of(obs, idx) for idx in ended]
            reset_infos = self._masked_reset(obs, dones)
            first_infos = [info_of(reset_infos, idx) for idx in ended]
        if self._statistics is not None:
            for info, episode in zip(last_infos, self._statistics.end(ended), strict=True):
                info["episode"] = episode
        for n, idx in enumerate(ended):
            info = last_infos[n]
            info["TimeLimit.truncated"] = bool(time_limit[idx])
            info["terminal_observation"] = last_obs[n]
            step_infos[idx] = info
            self.reset_infos[idx] = first_infos[n]

    def _masked_reset(self, obs: Batch, mask: np.ndarray) -> dict[str, Any]:
        """Reset the environments of the mask, write their first observations into ``obs``, and return their infos."""
        first_obs, infos = self.vector_env.reset(options={"reset_mask": mask.copy()})
        pairs = [(obs[key], first_obs[key]) for key in obs] if isinstance(obs, dict) else [(obs, first_obs)]
        for array, first in pairs:
            if self._doubt_masks and not np.array_equal(array[~mask], np.asarray(first)[~mask], equal_nan=True):
                raise ValueError(
                    f"{self.vector_env} says autoreset_mode=DISABLED, but its reset(options={{'reset_mask': mask}}) "
                    "changed environments that are not in the mask: make it reset those of the mask alone, or write "
                    "gymnasium.vector.SyncVectorEnv(env_fns)"
                )
            array[mask] = first[mask]
        return dict(infos)

    def _final_obs(self, info: dict[str, Any]) -> Any:
        """Take the last observation of an episode out of the infos of an environment in SAME_STEP mode."""
        if info.get("final_obs") is None:
            raise ValueError(
                f"{self.vector_env} says autoreset_mode=SAME_STEP, but its infos have no 'final_obs' where an episode "
                f"ended, only {sorted(info)}: give infos['final_obs'] as gymnasium.vector.SyncVectorEnv does"
            )
        last, space = info.pop("final_obs"), self.observation_space
        if isinstance(space, spaces.Dict):
            return {key: np.array(last[key], dtype=space[key].dtype) for key in space.spaces}
        return np.array(last, dtype=space.dtype)

    def _owned(self, obs: Any) -> Batch:
        """The observations in arrays that the environment will not write to."""
        if isinstance(obs, dict):
            return {key: value if self._fresh_obs else np.array(value) for key, value in obs.items()}
        return obs if self._fresh_obs else np.array(obs)

    def _no_infos(self) -> list[dict[str, Any]]:
        """A new list of empty dictionaries, one for each environment.

        Thousands of new dictionaries a step would cost more than the step of a fast environment, so they are used
        again, unless somebody wrote to one.
        """
        if any(self._blank_infos):
            self._blank_infos = [{} for _ in range(self.num_envs)]
        return self._blank_infos.copy()

    def _common_options(self) -> dict[str, Any] | None:
        """The options of the next reset, which are one dictionary for all environments."""
        first = self._options[0]
        if not any(self._options):
            return None
        if not all(options is first or options == first for options in self._options):
            raise ValueError(
                f"Gymnasium's vector environments give the same options to all, got {self._options}: write "
                "set_options({...}) with one dictionary, or use SB3's DummyVecEnv"
            )
        return dict(first)

    # Everything else

    def seed(self, seed: int | None = None) -> Sequence[int | None]:
        """Seed the next reset; without a seed, with one drawn from NumPy's global state that every environment takes.

        :return: the seed of each environment
        """
        seeds = super().seed(seed)
        if seed is None:
            seeds = super().seed(int(seeds[0] or 0) % (MAX_SEED - self.num_envs))
        return seeds

    def close(self) -> None:
        """Close the environments; a second time does nothing."""
        if not self._closed:
            self._closed = True
            self.vector_env.close()

    def get_images(self) -> Sequence[np.ndarray | None]:
        """One image of each environment, where ``render_mode="rgb_array"``."""
        if self.render_mode != "rgb_array":
            warnings.warn(
                f"The render mode is {self.render_mode}, and images need `rgb_array`: give it to the environment.",
                stacklevel=2,
            )
            return [None for _ in range(self.num_envs)]
        images: Any = self.vector_env.render()
        return list(images)

    def has_attr(self, attr_name: str) -> bool:
        """Whether every environment has such an attribute."""
        return self._sub_envs.has(attr_name)

    def get_attr(self, attr_name: str, indices: VecEnvIndices = None) -> list[Any]:
        """An attribute of each environment.

        :raises AttributeError: if there is none
        """
        self._check_attr(attr_name)
        return self._sub_envs.get(attr_name, self._where(indices))

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """Set an attribute of each environment, in the wrapper that has it."""
        self._sub_envs.set(attr_name, value, self._where(indices))

    def env_method(
        self, method_name: str, *method_args: Any, indices: VecEnvIndices = None, **method_kwargs: Any
    ) -> Any:
        """Call a method of each environment.

        :return: a list of what they return
        :raises AttributeError: if there is none
        """
        self._check_attr(method_name)
        return self._sub_envs.call(method_name, self._where(indices), *method_args, **method_kwargs)

    def env_is_wrapped(
        self, wrapper_class: type[gym.Wrapper[Any, Any, Any, Any]], indices: VecEnvIndices = None
    ) -> Any:
        """Whether each environment is wrapped so; in a Monitor also if the adapter records statistics in its stead."""
        return self._sub_envs.wrapped(wrapper_class, self._where(indices))

    @property
    def envs(self) -> list[gym.Env[Any, Any]]:
        """The single environments, where they are in this process, as in DummyVecEnv."""
        base = self.vector_env.unwrapped
        if not isinstance(base, SyncVectorEnv):
            raise AttributeError(f"{base} has no single environments in this process: write backend='dummy'")
        return list(base.envs)

    def _where(self, indices: VecEnvIndices) -> list[int]:
        """The indices as numbers from 0, so that -1 is the same environment as the last.

        :raises IndexError: if there is no such environment
        """
        return [range(self.num_envs)[idx] for idx in self._get_indices(indices)]

    def _check_attr(self, name: str) -> None:
        if not self._sub_envs.has(name):
            raise AttributeError(f"{self._sub_envs} has no attribute or method {name!r}")


def check_vector_env(vector_env: object) -> None:
    """Refuse what is no vector environment, and observations that SB3 has no policy for."""
    if not isinstance(vector_env, VectorEnv):
        raise ValueError(
            f"GymnasiumVecEnv takes a gymnasium.vector.VectorEnv, got {vector_env!r}: write gymnasium.make_vec(env_id, "
            "num_envs), or, for a single environment, SB3's DummyVecEnv([lambda: env])"
        )
    space = vector_env.single_observation_space
    parts = list(space.spaces.values()) if isinstance(space, spaces.Dict) else [space]
    for part in parts:
        if not isinstance(part, SIMPLE_SPACES):
            raise ValueError(
                "SB3's policies observe Box, Discrete, MultiDiscrete and MultiBinary spaces, or a Dict of these, got "
                f"{space}: wrap each environment (in gymnasium.wrappers.FlattenObservation, say)"
            )


def row_of(batch: Batch, idx: int) -> Any:
    """A copy of one environment's row: an observation."""
    if isinstance(batch, dict):
        return {key: value[idx].copy() for key, value in batch.items()}
    return batch[idx].copy()
