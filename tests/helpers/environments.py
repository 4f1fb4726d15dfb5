"""Environments whose every number is known beforehand.

:class:`DiaryEnv` tells in its observation which environment, episode and step it is in, so that a test can see where
each row of a batch comes from. The others are tasks that one idea solves: what fails on them has a name.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from stable_baselines3.common.vec_env import DummyVecEnv

FaultyPart = Literal["reset", "observation", "reward", "error"]


@dataclass(frozen=True)
class Fault:
    """Something that goes wrong once: in the environment's ``step``-th step (from 1), or in its first reset."""

    what: FaultyPart
    step: int = 1
    value: float = float("nan")


class BrokenEnvironment(RuntimeError):
    """What a :class:`DiaryEnv` with an ``"error"`` raises."""


class DiaryEnv(gym.Env[Any, Any]):
    """Observes ``(index, episode, step)``, its own actions checked against its action space.

    :param lengths: steps of the first episodes; the last one holds for all that follow, None is an episode that never
        ends.
    :param index: the number of the environment, as it observes it
    :param as_dict: give the observation as a dictionary
    :param ending: how its episodes end
    :param fault: what goes wrong, and when
    """

    def __init__(
        self,
        lengths: Sequence[int | None] = (5,),
        index: int = 0,
        action_space: spaces.Space[Any] | None = None,
        as_dict: bool = False,
        ending: Literal["terminated", "truncated"] = "terminated",
        fault: Fault | None = None,
    ) -> None:
        where = spaces.Box(-1.0, 1e6, (3,), np.float32)
        self.observation_space = spaces.Dict({"where": where, "index": spaces.Discrete(64)}) if as_dict else where
        self.action_space = spaces.Discrete(2) if action_space is None else action_space
        self.lengths, self.index, self.as_dict, self.ending, self.fault = lengths, index, as_dict, ending, fault
        self.episode, self.t, self.steps = -1, 0, 0

    @property
    def length(self) -> int | None:
        """Steps of the running episode."""
        return self.lengths[min(self.episode, len(self.lengths) - 1)]

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed, options=options)
        self.episode, self.t = self.episode + 1, 0
        return self._observe(faulty=self._is_due("reset") and self.episode == 0), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        if not self.action_space.contains(action):
            raise AssertionError(f"{action!r} is not in {self.action_space}")
        self.t, self.steps = self.t + 1, self.steps + 1
        if self._is_due("error"):
            raise BrokenEnvironment(f"step {self.steps} of environment {self.index}")
        done = self.t == self.length
        reward = self.fault.value if self.fault and self._is_due("reward") else float(1 + self.steps % 3)
        terminated = done and self.ending == "terminated"
        return self._observe(self._is_due("observation")), reward, terminated, done and not terminated, {}

    def _is_due(self, what: FaultyPart) -> bool:
        return self.fault is not None and self.fault.what == what and (what == "reset" or self.fault.step == self.steps)

    def _observe(self, faulty: bool) -> Any:
        where = np.array([self.index, self.episode, self.t], dtype=np.float32)
        if faulty and self.fault:
            where[2] = self.fault.value
        return {"where": where, "index": self.index} if self.as_dict else where


def diary(n_envs: int = 1, **kwargs: Any) -> DummyVecEnv:
    """Several :class:`DiaryEnv`, numbered."""
    return DummyVecEnv([partial(DiaryEnv, index=index, **kwargs) for index in range(n_envs)])


def faulty(fault: Fault, n_envs: int = 3, faulty_env: int = 1, **kwargs: Any) -> DummyVecEnv:
    """Several :class:`DiaryEnv`, one of which has a fault."""
    faults = [fault if index == faulty_env else None for index in range(n_envs)]
    return DummyVecEnv([partial(DiaryEnv, index=index, fault=one, **kwargs) for index, one in enumerate(faults)])


class ProbeEnv(gym.Env[np.ndarray, Any]):
    """Episodes of ``length`` steps that observe a sign, -1 or 1, drawn anew each step, and the time left.

    :param reward: from the sign seen, the action and the step to the reward
    """

    def __init__(self, reward: Callable[[float, Any, int], float], length: int = 1) -> None:
        self.observation_space = spaces.Box(-1.0, 1.0, (2,), np.float32)
        self.action_space = spaces.Discrete(2)
        self.reward, self.length = reward, length
        self.sign, self.t = 1.0, 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed, options=options)
        self.t = 0
        return self._observe(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        reward = self.reward(self.sign, action, self.t)
        self.t += 1
        return self._observe(), reward, self.t == self.length, False, {}

    def _observe(self) -> np.ndarray:
        self.sign = 1.0 if self.np_random.random() < 0.5 else -1.0
        return np.array([self.sign, 1 - self.t / self.length], dtype=np.float32)


class RandomEnv(gym.Env[Any, np.ndarray]):
    """Random observations, rewards that depend on both, and episodes of random length: 1 to ``horizon`` steps.

    :param end_probability: that a step ends the episode; the horizon truncates it
    """

    def __init__(
        self,
        action_space: spaces.Space[Any],
        observation_space: spaces.Space[Any],
        horizon: int,
        end_probability: float,
    ) -> None:
        self.action_space, self.observation_space = action_space, observation_space
        self.horizon, self.end_probability = horizon, end_probability

    def _observe(self) -> Any:
        # Not observation_space.sample(): that has a generator of its own
        draw = self.np_random

        def of(space: spaces.Space[Any]) -> Any:
            if isinstance(space, spaces.Discrete):
                return int(draw.integers(space.n))
            return draw.normal(size=space.shape).clip(-2, 2).astype(np.float32)

        if isinstance(self.observation_space, spaces.Dict):
            return {key: of(space) for key, space in self.observation_space.items()}
        return of(self.observation_space)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed, options=options)
        self._t = 0
        return self._observe(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self._t += 1
        reward = float(np.tanh(np.sum(action)) + self.np_random.normal())
        terminated = bool(self.np_random.random() < self.end_probability)
        return self._observe(), reward, terminated, self._t >= self.horizon and not terminated, {}


#: For :class:`RandomEnv`: action spaces with the arguments that go with them, and observation spaces by policy.
SPACES: dict[str, tuple[spaces.Space[Any], dict[str, Any]]] = {
    "Box": (spaces.Box(-50, 50, (2,)), {}),
    "Box clipped": (spaces.Box(-0.5, 0.5, (3,)), {}),
    "gSDE": (spaces.Box(-50, 50, (2,)), {"use_sde": True, "sde_sample_freq": 3}),
    "MultiDiscrete": (spaces.MultiDiscrete([3, 2, 4]), {}),
    "MultiBinary": (spaces.MultiBinary(3), {}),
    "Discrete": (spaces.Discrete(4), {}),
}
OBSERVATIONS: dict[str, spaces.Space[Any]] = {
    "MlpPolicy": spaces.Box(-2, 2, (3,)),
    "MultiInputPolicy": spaces.Dict({"vector": spaces.Box(-2, 2, (2,)), "number": spaces.Discrete(3)}),
}
