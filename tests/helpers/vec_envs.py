"""Vector environments, awkward ones among them, and a step-by-step comparison with SB3's DummyVecEnv."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, SyncVectorEnv, VectorEnv
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import (
    DummyVecEnv,
    VecEnv,
)

from sb3_pg.envs import GymnasiumVecEnv

MODES = list(AutoresetMode)
every_mode = pytest.mark.parametrize("mode", MODES, ids=[mode.name for mode in MODES])


class Tally(gym.Env[Any, Any]):
    """Observes its episode, its step and a number drawn from its seed, in an array that it writes to again and again.

    Episodes are of random length and end terminated, truncated or both. Actions count in the reward.
    """

    def __init__(
        self, as_dict: bool = False, longest: int = 5, render_mode: str | None = None, new_obs: bool = True
    ) -> None:
        where = spaces.Box(-1.0, 1e6, (3,), np.float32)
        self.observation_space = spaces.Dict({"where": where, "parity": spaces.Discrete(2)}) if as_dict else where
        self.action_space = spaces.Discrete(3)
        self.as_dict, self.longest, self.render_mode, self.new_obs = as_dict, longest, render_mode, new_obs
        self.where, self.knob = np.array([-1, 0, 0], dtype=np.float32), 1
        self.options: list[dict[str, Any]] = [{}]

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.options.append(options or {})
        self.where += [1, 0, 0]
        self.where[1:] = 0, self.np_random.random()
        self.length = int(self.np_random.integers(1, self.longest + 1))
        return self._observe(), {"length": self.length}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        assert self.action_space.contains(action), action
        self.where[1] += 1
        done = int(self.where[1]) == self.length
        terminated, truncated = ((True, False), (False, True), (True, True))[int(self.np_random.integers(3))]
        info: dict[str, Any] = {"left": self.length - int(self.where[1]), "nest": {"twice": 2 * float(self.where[1])}}
        if done:
            info |= {"is_success": terminated, "path": self.where.copy(), "name": "an end"}
        return self._observe(), 0.1 * float(action) + 1 / 3, done and terminated, done and truncated, info

    def render(self) -> np.ndarray:
        return np.full((2, 2, 3), int(self.where[1]), dtype=np.uint8)

    def turn(self, by: int) -> int:
        self.knob += by
        return self.knob

    def _observe(self) -> Any:
        where = self.where.copy() if self.new_obs else self.where
        return {"where": where, "parity": int(self.where[1]) % 2} if self.as_dict else where


class Batched(VectorEnv[Any, Any, Any]):
    """A vector environment of a stranger: one counter, an episode of 3 steps for the first, 4 for the second, ...

    :param obeys: resets the environments of a mask alone, and not all
    """

    def __init__(self, mode: Any, obeys: bool = True, num_envs: int = 2) -> None:
        self.metadata = {} if mode is None else {"autoreset_mode": mode}
        self.num_envs, self.obeys, self.lengths = num_envs, obeys, 3 + np.arange(num_envs)
        self.single_observation_space = self.observation_space = spaces.Box(0.0, 1e6, (1,), np.float32)
        self.single_action_space = self.action_space = spaces.Discrete(2)
        self.t = np.zeros((num_envs, 1), dtype=np.float32)
        self.seed: int | None = None

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        self.seed = seed
        mask = (options or {}).get("reset_mask") if self.obeys else None
        self.t[slice(None) if mask is None else mask] = 0
        return self.t, {}

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        self.t += 1
        return self.t, np.ones(self.num_envs), self.t[:, 0] >= self.lengths, np.zeros(self.num_envs, bool), {}


class BatchedSameStep(Batched):
    """Another stranger's, that gives the last observations of all in one array."""

    def __init__(self, as_dict: bool = False, forgets: bool = False) -> None:
        super().__init__(AutoresetMode.SAME_STEP)
        self.as_dict, self.forgets = as_dict, forgets
        if as_dict:
            self.single_observation_space = spaces.Dict({"t": self.single_observation_space})

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        obs = super().reset(seed=seed, options=options)[0]
        return {"t": obs} if self.as_dict else obs, {}

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        obs, rewards, terminated, truncated, _ = super().step(actions)
        last = obs.copy()
        obs[terminated] = 0
        infos = (
            {"final_obs": {"t": last} if self.as_dict else last, "_final_obs": terminated} if terminated.any() else {}
        )
        if infos and self.forgets:
            infos["_final_obs"] = ~terminated
        return {"t": obs} if self.as_dict else obs, rewards, terminated, truncated, infos


def monitored(env_fn: Callable[[], gym.Env[Any, Any]]) -> gym.Env[Any, Any]:
    return Monitor(env_fn())


def pair(
    env_fn: Callable[[], gym.Env[Any, Any]], n_envs: int, mode: AutoresetMode, **kwargs: Any
) -> tuple[VecEnv, Any]:
    """SB3's environments with Monitors, and ours."""
    sb3 = DummyVecEnv([partial(monitored, env_fn)] * n_envs)
    return sb3, GymnasiumVecEnv(SyncVectorEnv([env_fn] * n_envs, autoreset_mode=mode, **kwargs))


def assert_equal(one: Any, other: Any, where: str) -> None:
    if isinstance(one, dict):
        assert one.keys() == other.keys(), f"{where}: {one.keys()} and {other.keys()}"
        for key in one:
            assert_equal(one[key], other[key], f"{where}/{key}")
    elif isinstance(one, (str, type(None))):
        assert one == other, where
    else:
        np.testing.assert_array_equal(np.asarray(one), np.asarray(other), err_msg=where)


def comparable(info: dict[str, Any]) -> dict[str, Any]:
    """Without the time; False wherever there was no time limit, as DummyVecEnv says and others leave out."""
    info = {"TimeLimit.truncated": False, **info}
    if "episode" in info:
        assert info["episode"]["t"] >= 0
        info["episode"] = {key: value for key, value in info["episode"].items() if key != "t"}
    return info


def assert_same_transitions(sb3: VecEnv, ours: VecEnv, n_steps: int, seed: int = 0, reset_infos: bool = True) -> int:
    """Step both with the same random actions; returns how many episodes ended."""
    sb3.seed(seed), ours.seed(seed)
    assert_equal(sb3.reset(), ours.reset(), "first observation")
    ours.action_space.seed(seed)
    n_episodes = 0
    for step in range(n_steps):
        actions = np.stack([ours.action_space.sample() for _ in range(ours.num_envs)])
        obs, rewards, dones, infos = sb3.step(actions)
        our_obs, our_rewards, our_dones, our_infos = ours.step(actions)
        assert_equal(dones, our_dones, f"dones {step}")
        assert_equal(obs, our_obs, f"observation {step}")
        assert_equal(rewards, our_rewards, f"rewards {step}")
        assert our_rewards.dtype == np.float32 and our_dones.dtype == bool
        for idx in range(ours.num_envs):
            assert_equal(comparable(infos[idx]), comparable(our_infos[idx]), f"info {step} of {idx}")
            if reset_infos:
                assert_equal(sb3.reset_infos[idx], ours.reset_infos[idx], f"reset info {step} of {idx}")
        n_episodes += int(dones.sum())
    return n_episodes


class FakePool:
    """EnvPool as documented: seeded when made, resets who is done in its next step, or those it is told to."""

    def __init__(self, task: str, env_type: str, num_envs: int, seed: int, **config: Any) -> None:
        assert env_type == "gymnasium"
        kwargs = config | ({} if "new_obs" in config else {"new_obs": True})
        self.envs, self.seed = [Tally(**kwargs) for _ in range(num_envs)], seed
        self.observation_space, self.action_space = self.envs[0].observation_space, self.envs[0].action_space
        self.ever_reset, self.done = False, np.zeros(num_envs, dtype=bool)
        self.closed = False

    def _stack(self, obs: list[Any]) -> Any:
        return (
            {key: np.stack([row[key] for row in obs]) for key in obs[0]} if isinstance(obs[0], dict) else np.stack(obs)
        )

    def reset(self, env_id: np.ndarray | None = None) -> tuple[Any, dict[str, Any]]:
        ids = np.arange(len(self.envs)) if env_id is None else env_id
        seeds = [None if self.ever_reset else self.seed + int(idx) for idx in ids]
        self.ever_reset, self.done[ids] = True, False
        obs = [self.envs[idx].reset(seed=seed)[0] for idx, seed in zip(ids, seeds, strict=True)]
        return self._stack(obs), {"env_id": ids, "players": {"env_id": ids}}

    def step(self, actions: np.ndarray) -> tuple[Any, ...]:
        assert not self.done.any(), "EnvPool would ignore the action of an environment that is done"
        steps = [env.step(action) for env, action in zip(self.envs, actions, strict=True)]
        obs, rewards, terminated, truncated, infos = zip(*steps, strict=True)
        self.done = np.logical_or(terminated, truncated)
        info = {"left": np.array([info["left"] for info in infos]), "env_id": np.arange(9), "players": {"env_id": []}}
        return self._stack(list(obs)), np.array(rewards), np.array(terminated), np.array(truncated), info

    def close(self) -> None:
        assert not self.closed
        self.closed = True
