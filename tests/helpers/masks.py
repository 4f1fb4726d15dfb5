"""Environments whose action masks can be read off their observations, and masks by the textbook's formulas."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from gymnasium import spaces
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space
from stable_baselines3.common.vec_env import DummyVecEnv

from sb3_pg.data.batch import EpisodeBatch, Observations
from tests.helpers.environments import DiaryEnv

#: Each with the number of values of its dimensions.
MASKED_SPACES: dict[str, tuple[spaces.Space[Any], list[int]]] = {
    "Discrete": (spaces.Discrete(4), [4]),
    "MultiDiscrete": (spaces.MultiDiscrete([2, 3]), [2, 3]),
    "MultiBinary": (spaces.MultiBinary(3), [2, 2, 2]),
}


def mask_at(where: np.ndarray, sizes: Sequence[int]) -> np.ndarray:
    """``(n, sum(sizes))`` what is allowed where a :class:`MaskedDiary` observes ``(index, episode, step)``.

    Two values in three are, and of two neighbours at least one.

    :param where: ``(n, 3)``
    """
    value = np.concatenate([np.arange(size) for size in sizes])
    shift = where @ np.array([1, 2, 4])
    allowed: np.ndarray = (shift[:, None] + value) % 3 != 0
    return allowed


def where_of(observations: Observations) -> np.ndarray:
    """``(n, 3)`` what was observed."""
    array = observations["where"] if isinstance(observations, dict) else observations
    return np.asarray(array).reshape(-1, 3)


class MaskedDiary(DiaryEnv):
    """A diary with a mask that changes in every step, and that nobody may get round.

    :param strict: refuse actions that are not allowed
    """

    def __init__(
        self,
        lengths: Sequence[int | None] = (5,),
        index: int = 0,
        strict: bool = True,
        space: str = "Discrete",
        **kwargs: Any,
    ) -> None:
        action_space, self.sizes = MASKED_SPACES[space]
        super().__init__(lengths, index, action_space, **kwargs)
        self.strict, self.n_asked = strict, 0

    def mask(self) -> np.ndarray:
        """What is allowed now."""
        return mask_at(np.array([[self.index, self.episode, self.t]]), self.sizes)[0]

    def action_masks(self) -> np.ndarray:
        self.n_asked += 1
        return self.mask()

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        first = np.cumsum([0, *self.sizes[:-1]])
        if self.strict and not self.mask()[first + np.atleast_1d(action)].all():
            raise AssertionError(f"{action} is not allowed by {self.mask()}")
        return super().step(action)


def masked_diary(n_envs: int = 3, **kwargs: Any) -> DummyVecEnv:
    """Several, numbered."""
    return DummyVecEnv([partial(MaskedDiary, index=index, **kwargs) for index in range(n_envs)])


class Fixed(gym.Env[Any, Any]):
    """Observes nothing; its masks are what it is given, one after the other, the last for ever."""

    def __init__(self, *masks: Any, space: spaces.Space[Any] | None = None) -> None:
        self.observation_space = spaces.Box(-1.0, 1.0, (2,))
        self.action_space = spaces.Discrete(3) if space is None else space
        self.masks, self.t = masks, 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        return np.zeros(2, np.float32), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self.t += 1
        return np.zeros(2, np.float32), 1.0, self.t % 4 == 0, False, {}

    def action_masks(self) -> Any:
        return self.masks[min(self.t, len(self.masks) - 1)]


class MaskedVector(VectorEnv[Any, Any, Any]):
    """Diaries that nobody can look into, with the masks of all in one array, always the same one."""

    def __init__(self, n_envs: int = 2, **kwargs: Any) -> None:
        self._diaries = [MaskedDiary(index=index, **kwargs) for index in range(n_envs)]
        self.num_envs, one = n_envs, self._diaries[0]
        self.single_observation_space, self.single_action_space = one.observation_space, one.action_space
        self.observation_space = batch_space(one.observation_space, n_envs)
        self.action_space = batch_space(one.action_space, n_envs)
        self.metadata = {"autoreset_mode": AutoresetMode.DISABLED}
        self._obs = np.zeros((n_envs, 3), np.float32)
        self._masks = np.zeros((n_envs, sum(one.sizes)), bool)

    def reset(self, *, seed: Any = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        mask = (options or {}).get("reset_mask", np.ones(self.num_envs, bool))
        for index in np.flatnonzero(mask):
            self._obs[index] = self._diaries[index].reset()[0]
        return self._obs.copy(), {}

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        steps = [one.step(action) for one, action in zip(self._diaries, actions, strict=True)]
        self._obs[:] = [one[0] for one in steps]
        rewards, terminated, truncated = (np.array([one[part] for one in steps]) for part in (1, 2, 3))
        return self._obs.copy(), rewards, terminated, truncated, {}

    def action_masks(self) -> np.ndarray:
        self._masks[:] = [one.action_masks() for one in self._diaries]
        return self._masks


def log_probs_of(logits: th.Tensor, masks: th.Tensor, sizes: Sequence[int]) -> list[th.Tensor]:
    """``(n_rows, size)`` log-probs of each dimension of the action, -inf for what is masked."""
    parts = zip(logits.split(list(sizes), dim=1), masks.split(list(sizes), dim=1), strict=True)
    return [part.masked_fill(~allowed, -th.inf).log_softmax(dim=-1) for part, allowed in parts]


def joint_log_prob(log_probs: list[th.Tensor], actions: th.Tensor) -> th.Tensor:
    """``(n_rows,)`` of the actions."""
    columns = actions.reshape(len(actions), len(log_probs)).long().unbind(dim=1)
    chosen = [part.gather(1, column[:, None])[:, 0] for part, column in zip(log_probs, columns, strict=True)]
    return th.stack(chosen).sum(dim=0)


def assert_own_masks(batch: EpisodeBatch, sizes: Sequence[int]) -> None:
    """Every row has the mask of its observation, as truth values."""
    masks = batch.extras["action_masks"]
    assert masks.dtype == th.bool
    np.testing.assert_array_equal(masks.numpy(), mask_at(where_of(batch.observations), sizes))
