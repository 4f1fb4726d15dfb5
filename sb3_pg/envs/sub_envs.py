"""The way to the single environments of one of Gymnasium's vector environments: their attributes and methods."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import gymnasium as gym
from gymnasium.vector import AsyncVectorEnv, VectorEnv, VectorWrapper
from sb3_contrib.common.maskable.utils import EXPECTED_METHOD_NAME
from stable_baselines3.common.env_util import is_wrapped
from stable_baselines3.common.monitor import Monitor

from sb3_pg.envs.statistics import RECORDED, EpisodeStatistics

#: Methods of a vector environment that return something for each of its environments: images, ``(n_envs, n)`` masks.
OF_EACH = ("render", EXPECTED_METHOD_NAME)


class BatchedSubEnvs:
    """A vector environment without an environment for each index: its own attributes are those of all."""

    def __init__(self, vector_env: VectorEnv[Any, Any, Any]) -> None:
        self.vector_env = vector_env

    def __str__(self) -> str:
        return f"{self.vector_env}, which has no single environments to look into,"

    def _named(self, name: str) -> str:
        """What the whole calls an attribute of one."""
        return f"single_{name}" if name in ("observation_space", "action_space") else name

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
        name = self._named(name)
        value = getattr(self._owner(name), name)
        return [value for _ in indices]

    def set(self, name: str, value: Any, indices: Sequence[int]) -> None:
        """Set an attribute for all."""
        self._check_all(indices, f"set_attr({name!r}, ...)")
        name = self._named(name)
        setattr(self._owner(name), name, value)

    def call(self, name: str, indices: Sequence[int], *args: Any, **kwargs: Any) -> list[Any]:
        """What is known to be of each environment, else refused: a method of the whole says nothing of its parts."""
        if name in OF_EACH:
            values: Any = getattr(self._owner(name), name)(*args, **kwargs)
            return [None if values is None else values[idx] for idx in indices]
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
        self._found: set[str] = set()

    def __str__(self) -> str:
        return f"An environment of {self.base}"

    def has(self, name: str) -> bool:
        """Whether all have such an attribute; what was found is not looked up again, since that asks every process."""
        if name not in self._found and all(self.base.call("has_wrapper_attr", name)):
            self._found.add(name)
        return name in self._found

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


class MonitoredSubEnvs(BatchedSubEnvs):
    """Environments with the statistics of a Monitor around each, which are asked first."""

    def __init__(self, sub_envs: BatchedSubEnvs, statistics: EpisodeStatistics) -> None:
        super().__init__(sub_envs.vector_env)
        self.sub_envs = sub_envs
        self.statistics = statistics

    def __str__(self) -> str:
        return str(self.sub_envs)

    def has(self, name: str) -> bool:
        """Whether a Monitor or all environments have such an attribute."""
        return name in RECORDED or self.sub_envs.has(name)

    def get(self, name: str, indices: Sequence[int]) -> list[Any]:
        """An attribute of each."""
        if name in RECORDED:
            return [getattr(self.statistics.of(idx), name) for idx in indices]
        return self.sub_envs.get(name, indices)

    def set(self, name: str, value: Any, indices: Sequence[int]) -> None:
        """Set an attribute of each environment; what is recorded is not to be set."""
        if name in RECORDED:
            raise ValueError(f"{name!r} is what the episodes were, got set_attr({name!r}, {value!r}): leave it out")
        self.sub_envs.set(name, value, indices)

    def call(self, name: str, indices: Sequence[int], *args: Any, **kwargs: Any) -> list[Any]:
        """Call a method of each."""
        if name in RECORDED:
            return [getattr(self.statistics.of(idx), name)(*args, **kwargs) for idx in indices]
        return self.sub_envs.call(name, indices, *args, **kwargs)

    def wrapped(self, wrapper_class: type[Any], indices: Sequence[int]) -> list[bool]:
        """Whether each is wrapped so: in a Monitor, yes."""
        return [True for _ in indices] if wrapper_class is Monitor else self.sub_envs.wrapped(wrapper_class, indices)


def sub_envs_of(vector_env: VectorEnv[Any, Any, Any]) -> BatchedSubEnvs:
    """The way to the single environments of a vector environment."""
    base = vector_env.unwrapped
    if isinstance(base, AsyncVectorEnv):
        return RemoteSubEnvs(vector_env)
    envs = getattr(base, "envs", None)
    if isinstance(envs, (list, tuple)) and envs and all(isinstance(env, gym.Env) for env in envs):
        return LocalSubEnvs(vector_env)
    return BatchedSubEnvs(vector_env)
