"""Gymnasium's vector environments, as SB3's VecEnv.

Gymnasium resets an environment that is done in one of three ways, and SB3 knows one: the step that ends an episode
returns the first observation of the next. What gets there is a reset of the environments that are done and of no other,
which Gymnasium calls a masked reset. An environment in NEXT_STEP mode that cannot do it spends one of its own steps on
the reset, while the others go on; as SB3 has no transition without an action, that step would reach the learner as a
transition that never was. Such an environment is refused.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Sequence
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.envs.classic_control.cartpole import CartPoleVectorEnv
from gymnasium.vector import AsyncVectorEnv, AutoresetMode, SyncVectorEnv, VectorEnv, VectorWrapper
from stable_baselines3.common.env_util import is_wrapped
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import VecEnv
from stable_baselines3.common.vec_env.base_vec_env import VecEnvIndices

#: ``(n_envs, ...)``, or a dictionary of such
Batch = np.ndarray | dict[str, np.ndarray]

SIMPLE_SPACES = (spaces.Box, spaces.Discrete, spaces.MultiDiscrete, spaces.MultiBinary)

#: In SAME_STEP mode, where an episode's last observation and infos are
FINAL = ("final_obs", "final_info")


class GymnasiumVecEnv(VecEnv):
    """A ``gymnasium.vector.VectorEnv`` as SB3's VecEnv, with SB3's meaning of a done and a Monitor's statistics.

    :param vector_env: in any autoreset mode; in NEXT_STEP mode, Gymnasium's own environments without a wrapper around
        them. From now on it is stepped by nothing else. DISABLED is the most exact: in SAME_STEP mode an environment
        must not write its first observation into the array of the last, and Gymnasium's Sync and Async environments
        (1.4) put infos of a reset and of a step into one array, of the type of the first.
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
        self._sub_envs = sub_envs_of(vector_env)
        # Sync and Async reset exactly who is in the mask; wrappers may transform anew what they are given again.
        self._doubt_masks = type(vector_env) not in (SyncVectorEnv, AsyncVectorEnv, CartPoleVectorEnv)
        self._doubt_masks &= not isinstance(vector_env, VectorWrapper)
        copies = type(vector_env) in (SyncVectorEnv, AsyncVectorEnv) and getattr(vector_env, "copy", False)
        self._fresh_obs = copies or type(vector_env) is CartPoleVectorEnv
        super().__init__(vector_env.num_envs, vector_env.single_observation_space, vector_env.single_action_space)
        self._records = record_episode_statistics and not any(self._sub_envs.wrapped(Monitor, range(self.num_envs)))
        self._returns = np.zeros(self.num_envs)
        self._lengths = np.zeros(self.num_envs, dtype=np.int64)
        self._blank_infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        self._t_start = time.time()
        self._closed = False

    # Stepping

    def reset(self) -> Batch:
        """Reset all environments, with the seed and the options that are waiting for it.

        :return: the first observations, ``(n_envs, ...)``
        """
        seed = self._seeds[0]
        obs, infos = self.vector_env.reset(seed=None if seed is None else int(seed), options=self._common_options())
        self._reset_seeds()
        self._reset_options()
        self._returns[:] = 0
        self._lengths[:] = 0
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
        self._returns += rewards
        self._lengths += 1
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
        if self._same_step:
            last_obs = [self._final_obs(infos, idx) for idx in ended]
            first_infos = {key: value for key, value in infos.items() if key.lstrip("_") not in FINAL}
            infos = infos.get("final_info", {})
        else:
            last_obs = [row_of(obs, idx) for idx in ended]
            first_infos = self._masked_reset(obs, dones)
        t = round(time.time() - self._t_start, 6)
        for idx, terminal_observation in zip(ended, last_obs, strict=True):
            info = info_of(infos, idx)
            if self._records:
                info["episode"] = {"r": round(float(self._returns[idx]), 6), "l": int(self._lengths[idx]), "t": t}
            info["TimeLimit.truncated"] = bool(time_limit[idx])
            info["terminal_observation"] = terminal_observation
            step_infos[idx] = info
            self.reset_infos[idx] = info_of(first_infos, idx)
        self._returns[ended] = 0
        self._lengths[ended] = 0

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

    def _final_obs(self, infos: dict[str, Any], idx: int) -> Any:
        """The last observation of an episode, from an environment in SAME_STEP mode."""
        final_obs, given = infos.get("final_obs"), infos.get("_final_obs")
        if final_obs is None or (given is not None and not given[idx]):
            raise ValueError(
                f"{self.vector_env} says autoreset_mode=SAME_STEP, but its infos have no 'final_obs' where an episode "
                f"ended, only {sorted(infos)}: give infos['final_obs'] as gymnasium.vector.SyncVectorEnv does"
            )
        last = {key: final_obs[key][idx] for key in final_obs} if isinstance(final_obs, dict) else final_obs[idx]
        space = self.observation_space
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
        return self._sub_envs.get(attr_name, list(self._get_indices(indices)))

    def set_attr(self, attr_name: str, value: Any, indices: VecEnvIndices = None) -> None:
        """Set an attribute of each environment, in the wrapper that has it."""
        self._sub_envs.set(attr_name, value, list(self._get_indices(indices)))

    def env_method(
        self, method_name: str, *method_args: Any, indices: VecEnvIndices = None, **method_kwargs: Any
    ) -> Any:
        """Call a method of each environment.

        :return: a list of what they return
        :raises AttributeError: if there is none
        """
        self._check_attr(method_name)
        return self._sub_envs.call(method_name, list(self._get_indices(indices)), *method_args, **method_kwargs)

    def env_is_wrapped(
        self, wrapper_class: type[gym.Wrapper[Any, Any, Any, Any]], indices: VecEnvIndices = None
    ) -> Any:
        """Whether each environment is wrapped so; in a Monitor also if the adapter records statistics in its stead."""
        where = list(self._get_indices(indices))
        if wrapper_class is Monitor and self._records:
            return [True for _ in where]
        return self._sub_envs.wrapped(wrapper_class, where)

    def _check_attr(self, name: str) -> None:
        if not self._sub_envs.has(name):
            raise AttributeError(f"{self._sub_envs} has no attribute or method {name!r}")


class BatchedSubEnvs:
    """A vector environment without an environment for each index: its own attributes are those of all."""

    def __init__(self, vector_env: VectorEnv[Any, Any, Any]) -> None:
        self.vector_env = vector_env

    def __str__(self) -> str:
        return f"{self.vector_env}, which has no single environments to look into,"

    def _owner(self, name: str) -> Any:
        env = self.vector_env
        while isinstance(env, VectorWrapper) and not hasattr(env, name):
            env = env.env
        return env

    def has(self, name: str) -> bool:
        """Whether there is such an attribute."""
        return hasattr(self._owner(name), name)

    def get(self, name: str, indices: Sequence[int]) -> list[Any]:
        """An attribute, as often as asked for."""
        value = getattr(self._owner(name), name)
        return [value for _ in indices]

    def set(self, name: str, value: Any, indices: Sequence[int]) -> None:
        """Set an attribute for all."""
        self._check_all(indices, f"set_attr({name!r}, ...)")
        setattr(self._owner(name), name, value)

    def call(self, name: str, indices: Sequence[int], *args: Any, **kwargs: Any) -> list[Any]:
        """Refused: a method of the whole says nothing of its parts."""
        raise AttributeError(
            f"{self} and so no method {name!r} for each index: call it on vec_env.vector_env, or use "
            "make_vec_env(..., backend='dummy')"
        )

    def wrapped(self, wrapper_class: type[Any], indices: Sequence[int]) -> list[bool]:
        """Nothing is wrapped."""
        return [False for _ in indices]

    def _check_all(self, indices: Sequence[int], what: str) -> None:
        if set(indices) != set(range(self.vector_env.num_envs)):
            raise ValueError(
                f"{what} reaches all environments of {self.vector_env} or none, got indices={list(indices)}: leave "
                "indices out, or use make_vec_env(..., backend='dummy')"
            )


class LocalSubEnvs(BatchedSubEnvs):
    """The environments of a SyncVectorEnv, or of one that keeps a list of them as it does."""

    def __init__(self, vector_env: VectorEnv[Any, Any, Any]) -> None:
        super().__init__(vector_env)
        self.envs: list[gym.Env[Any, Any]] = vector_env.unwrapped.envs  # type: ignore[attr-defined]

    def __str__(self) -> str:
        return str(self.envs[0])

    def has(self, name: str) -> bool:
        """Whether all have such an attribute."""
        return all(env.has_wrapper_attr(name) for env in self.envs)

    def get(self, name: str, indices: Sequence[int]) -> list[Any]:
        """An attribute of each."""
        return [self.envs[idx].get_wrapper_attr(name) for idx in indices]

    def set(self, name: str, value: Any, indices: Sequence[int]) -> None:
        """Set an attribute of each."""
        for idx in indices:
            self.envs[idx].set_wrapper_attr(name, value)

    def call(self, name: str, indices: Sequence[int], *args: Any, **kwargs: Any) -> list[Any]:
        """Call a method of each."""
        return [self.envs[idx].get_wrapper_attr(name)(*args, **kwargs) for idx in indices]

    def wrapped(self, wrapper_class: type[Any], indices: Sequence[int]) -> list[bool]:
        """Whether each is wrapped so."""
        return [is_wrapped(self.envs[idx], wrapper_class) for idx in indices]


class RemoteSubEnvs(BatchedSubEnvs):
    """The environments of an AsyncVectorEnv. An exception there would end a process, so names are looked up first."""

    def __init__(self, vector_env: VectorEnv[Any, Any, Any]) -> None:
        super().__init__(vector_env)
        self.base: AsyncVectorEnv[Any, Any] = vector_env.unwrapped  # type: ignore[assignment]

    def __str__(self) -> str:
        return f"An environment of {self.base}"

    def has(self, name: str) -> bool:
        """Whether all have such an attribute."""
        return all(self.base.call("has_wrapper_attr", name))

    def get(self, name: str, indices: Sequence[int]) -> list[Any]:
        """An attribute of each (what it returns, if it is a method)."""
        self._check_name(name)
        values = self.base.get_attr(name)
        return [values[idx] for idx in indices]

    def set(self, name: str, value: Any, indices: Sequence[int]) -> None:
        """Set an attribute of each: there is no way to reach some alone, so the others get what they have."""
        values = [value for _ in range(self.base.num_envs)]
        others = sorted(set(range(self.base.num_envs)) - set(indices))
        if others and not self.has(name):
            self._check_all(indices, f"set_attr({name!r}, ...), a new attribute,")
        for idx, present in zip(others, self.get(name, others) if others else [], strict=True):
            values[idx] = present
        self.base.set_attr(name, values)

    def call(self, name: str, indices: Sequence[int], *args: Any, **kwargs: Any) -> list[Any]:
        """Call a method of all."""
        self._check_name(name)
        self._check_all(indices, f"env_method({name!r}, ...)")
        values = self.base.call(name, *args, **kwargs)
        return [values[idx] for idx in indices]

    def wrapped(self, wrapper_class: type[Any], indices: Sequence[int]) -> list[bool]:
        """Whether each is wrapped in a Monitor; of other wrappers, only what they are called is to be had."""
        if wrapper_class is Monitor:
            monitored = self.base.call("has_wrapper_attr", "get_episode_rewards")
            return [bool(monitored[idx]) for idx in indices]
        raise NotImplementedError(
            f"{self.base} does not tell whether its environments are wrapped in {wrapper_class.__name__}: use "
            "make_vec_env(..., backend='subproc')"
        )

    def _check_name(self, name: str) -> None:
        if name in ("reset", "step", "close"):
            raise ValueError(f"{name!r} cannot be called on single environments of {self.base}: call vec_env.{name}()")


class CartPoles(VectorWrapper[Any, Any, Any, Any, Any]):
    """Gymnasium's vector CartPole, with the masked reset that it lacks.

    It draws what the environment itself would have drawn in its next step, and in the same order.
    """

    def __init__(self, env: CartPoleVectorEnv) -> None:
        super().__init__(env)
        self.poles: Any = env
        self.metadata = {**env.metadata, "autoreset_mode": AutoresetMode.DISABLED}

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Reset all environments, or those of ``options["reset_mask"]``."""
        mask = None if options is None else options.get("reset_mask")
        if mask is None:
            return super().reset(seed=seed, options=options)
        poles = self.poles
        poles.state[:, mask] = poles.np_random.uniform(low=poles.low, high=poles.high, size=(4, mask.sum()))
        poles.steps[mask] = 0
        poles.prev_done[mask] = False
        return poles.state.T.astype(np.float32), {}


def sub_envs_of(vector_env: VectorEnv[Any, Any, Any]) -> BatchedSubEnvs:
    """The way to the single environments of a vector environment."""
    base = vector_env.unwrapped
    if isinstance(base, AsyncVectorEnv):
        return RemoteSubEnvs(vector_env)
    envs = getattr(base, "envs", None)
    if isinstance(envs, (list, tuple)) and envs and all(isinstance(env, gym.Env) for env in envs):
        return LocalSubEnvs(vector_env)
    return BatchedSubEnvs(vector_env)


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


def with_masked_reset(vector_env: VectorEnv[Any, Any, Any]) -> tuple[VectorEnv[Any, Any, Any], bool]:
    """An environment that resets those that are done and no other, and whether it does so by itself.

    :raises ValueError: if it cannot
    """
    # Gymnasium's documentation: NEXT_STEP is the default
    given = vector_env.metadata.get("autoreset_mode", AutoresetMode.NEXT_STEP)
    try:
        mode = AutoresetMode(given)
    except ValueError as error:
        raise ValueError(
            f"metadata['autoreset_mode'] of {vector_env} must be a gymnasium.vector.AutoresetMode, got {given!r}"
        ) from error
    if mode is not AutoresetMode.NEXT_STEP:
        return vector_env, mode is AutoresetMode.SAME_STEP
    if type(vector_env) is CartPoleVectorEnv:
        return CartPoles(vector_env), False
    if type(vector_env) is SyncVectorEnv:
        return vector_env, False
    # Without shared memory, its workers forget that they have been reset already.
    if type(vector_env) is AsyncVectorEnv and vector_env.shared_memory and vector_env.worker is None:
        return vector_env, False
    wrapped = isinstance(vector_env, VectorWrapper)
    problem = "a wrapper around it counts on that" if wrapped else "it has no other reset"
    instead = AutoresetMode.SAME_STEP if wrapped else AutoresetMode.DISABLED
    raise ValueError(
        f"{vector_env} resets an environment in the step after its last (autoreset_mode=NEXT_STEP, Gymnasium's "
        f"default), which for SB3 would be a step that never was, and {problem}: write "
        f"gymnasium.make_vec(env_id, num_envs, vectorization_mode='sync', vector_kwargs={{'autoreset_mode': "
        f"{instead.value!r}}}) (or 'async'); or make_vec_env(..., backend='dummy'); or, in an environment of your own, "
        "give reset(options={'reset_mask': mask}) and set metadata['autoreset_mode'] = AutoresetMode.DISABLED"
    )


def row_of(batch: Batch, idx: int) -> Any:
    """A copy of one environment's row: an observation."""
    if isinstance(batch, dict):
        return {key: value[idx].copy() for key, value in batch.items()}
    return batch[idx].copy()


def info_of(infos: dict[str, Any], idx: int) -> dict[str, Any]:
    """One environment's infos, from a dictionary of arrays in which ``_key`` masks those that gave ``key``."""
    info: dict[str, Any] = {}
    for key, values in infos.items():
        if key.startswith("_") and key[1:] in infos:
            continue
        mask = infos.get(f"_{key}")
        if mask is not None and not mask[idx]:
            continue
        if isinstance(values, dict):
            info[key] = info_of(values, idx)
        elif isinstance(values, (np.ndarray, list, tuple)):
            value = values[idx]
            info[key] = value.item() if isinstance(value, np.generic) else value
            if isinstance(value, np.ndarray):
                info[key] = value.copy()
        else:
            info[key] = values
    return info
