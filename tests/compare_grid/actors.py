"""What the grids of these tests are made of: an environment that tells its episodes apart, algorithms that go wrong."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3 import A2C, DQN

from sb3_pg import REINFORCE


class Own(REINFORCE):
    """A class of the user's."""


class Crashing(A2C):
    """Breaks in its third update."""

    def train(self) -> None:
        if self._n_updates == 2:
            raise ArithmeticError("the third update")
        super().train()


class Diverging(DQN):
    """Ends with parameters that are no numbers; greedy actions do not show it."""

    def train(self, gradient_steps: int, batch_size: int = 100) -> None:
        super().train(gradient_steps, batch_size)
        with th.no_grad():
            next(iter(self.policy.parameters())).fill_(th.nan)


class StartEnv(gym.Env[Any, Any]):
    """Whatever one does, an episode's return is its start state, and that says how long it is."""

    observation_space = spaces.Box(0.0, 1.0, (1,), np.float32)
    action_space = spaces.Discrete(2)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.start, self.t = float(self.np_random.random()), 0
        return np.array([self.start], np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.t += 1
        done = self.t >= 1 + 20 * self.start
        return np.array([self.start], np.float32), self.start if done else 0.0, done, False, {}


gym.register("Start-v0", "tests.compare_grid.actors:StartEnv")
