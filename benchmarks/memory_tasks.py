"""Tasks that nobody solves who does not remember: ``benchmarks.memory_tasks:RepeatFirst-v0`` and so on."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces
from gymnasium.envs.classic_control import CartPoleEnv

#: What each gives at best, and what at most to who sees the last observation alone.
OPTIMUM = {"RepeatFirst-v0": 1.0, "TMaze-v0": 4.0, "CartPoleNoVelocity-v0": 500.0}


class RepeatFirst(gym.Env[np.ndarray, Any]):
    """The first observation is a sign; after ``length`` steps of nothing the action has to be it.

    Reward: 1 in the last step if it is, and 0 otherwise. Without memory: 1/2.

    :param length: steps of an episode
    """

    def __init__(self, length: int = 10) -> None:
        self.observation_space = spaces.Box(-1.0, 1.0, (2,), np.float32)
        self.action_space = spaces.Discrete(2)
        self.length = length

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """See Gymnasium."""
        super().reset(seed=seed, options=options)
        self.t, self.sign = 0, int(self.np_random.integers(2))
        return self._observe(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """See Gymnasium."""
        self.t += 1
        is_over = self.t == self.length
        return self._observe(), float(is_over and int(action) == self.sign), is_over, False, {}

    def _observe(self) -> np.ndarray:
        return np.array([2 * self.sign - 1 if self.t == 0 else 0, self.t / self.length], dtype=np.float32)


class TMaze(gym.Env[np.ndarray, Any]):
    """A corridor with a sign at its beginning, which says where to turn at its end (Bakker 2002).

    Actions: go on, turn left, turn right. Reward: 4 for the right turn at the end, -0.1 for the wrong one and for every
    step that leads nowhere. Without memory: 1.95 at most.

    :param length: steps of the corridor
    """

    def __init__(self, length: int = 10) -> None:
        self.observation_space = spaces.Box(-1.0, 1.0, (2,), np.float32)
        self.action_space = spaces.Discrete(3)
        self.length = length

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """See Gymnasium."""
        super().reset(seed=seed, options=options)
        self.place, self.sign = 0, int(self.np_random.integers(2))
        return self._observe(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        """See Gymnasium."""
        if self.place == self.length and int(action) > 0:
            return self._observe(), 4.0 if int(action) - 1 == self.sign else -0.1, True, False, {}
        goes_on = int(action) == 0 and self.place < self.length
        self.place += goes_on
        return self._observe(), 0.0 if goes_on else -0.1, False, False, {}

    def _observe(self) -> np.ndarray:
        return np.array([2 * self.sign - 1 if self.place == 0 else 0, self.place == self.length], dtype=np.float32)


class CartPoleNoVelocity(gym.ObservationWrapper[np.ndarray, Any, np.ndarray]):
    """CartPole, of which the positions are seen and the velocities are not."""

    def __init__(self) -> None:
        super().__init__(CartPoleEnv())
        high = self.env.observation_space.high[[0, 2]]  # type: ignore[attr-defined]
        self.observation_space = spaces.Box(-high, high, dtype=np.float32)

    def observation(self, observation: np.ndarray) -> np.ndarray:
        """Cart position and pole angle."""
        return observation[[0, 2]]


gym.register("RepeatFirst-v0", f"{__name__}:RepeatFirst")
gym.register("TMaze-v0", f"{__name__}:TMaze", max_episode_steps=50)
gym.register("CartPoleNoVelocity-v0", f"{__name__}:CartPoleNoVelocity", max_episode_steps=500)
