"""The action masks of a rollout, in sb3-contrib's convention: ``env.action_masks()``, True for what is allowed."""

from __future__ import annotations

from typing import Protocol

import numpy as np
from gymnasium import spaces
from sb3_contrib.common.maskable.utils import get_action_masks, is_masking_supported
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.vec_env import VecEnv

from sb3_pg.data.extras import ACTION_MASKS
from sb3_pg.policies.maskable import takes_masks
from sb3_pg.policies.masks import NUMBERS, can_be_masked, check_masks, mask_sizes


class Masks(Protocol):
    """The masks of one step after the other."""

    def read(self) -> np.ndarray:
        """``(n_envs, n)`` bool, those of the environments as they are now."""


class EnvMasks:
    """What the environments say, by one call of all in each step."""

    def __init__(self, env: VecEnv, action_space: spaces.Space[object]):
        self._env, self._sizes = env, mask_sizes(action_space)

    def read(self) -> np.ndarray:
        """See :class:`Masks`.

        :raises ValueError: naming the environment whose mask is none
        """
        try:
            masks = get_action_masks(self._env)
            is_one_array = masks.dtype.kind in NUMBERS
        except ValueError:  # arrays of different shapes, or the environment's own error
            is_one_array = False
        # As each gave it, to say which is wrong; an error of the environment's own is raised again
        return check_masks(masks if is_one_array else self._env.env_method(ACTION_MASKS), self._sizes)


class NoMasks:
    """Everything is allowed."""

    def __init__(self, n_envs: int, action_space: spaces.Space[object]):
        self._masks = np.ones((n_envs, sum(mask_sizes(action_space))), dtype=bool)

    def read(self) -> np.ndarray:
        """See :class:`Masks`."""
        return self._masks


def offers_masks(env: VecEnv, action_space: spaces.Space[object]) -> bool:
    """Whether the environments say which of their actions are allowed, and a policy could heed them."""
    try:
        return can_be_masked(action_space) and is_masking_supported(env)
    except NotImplementedError:  # a VecEnv that does not look into its environments
        return False


def masks_for(policy: ActorCriticPolicy, env: VecEnv, use_masking: bool) -> Masks | None:
    """Where the masks of a rollout come from; None for a policy that takes none.

    :param use_masking: False: whatever the environments say, everything is allowed
    :raises ValueError: if there are none
    """
    if not takes_masks(policy):
        return None
    if not use_masking:
        return NoMasks(env.num_envs, policy.action_space)
    if not offers_masks(env, policy.action_space):
        raise ValueError(
            f"The environment has no action_masks() for {type(policy).__name__}: give it that method, wrap it in "
            "sb3_contrib.common.wrappers.ActionMasker, write learn(..., use_masking=False), or use a policy that takes "
            "no masks ('MlpPolicy' is one where the environment has none)"
        )
    return EnvMasks(env, policy.action_space)
