"""EnvPool's environments as Gymnasium's vector environments."""

from __future__ import annotations

from copy import deepcopy
from functools import partial
from importlib import import_module
from typing import Any

import numpy as np
from gymnasium.vector import AutoresetMode, VectorEnv
from gymnasium.vector.utils import batch_space


class EnvPoolVectorEnv(VectorEnv[Any, Any, Any]):
    """EnvPool with Gymnasium's masked reset. A seed makes a new pool, as EnvPool is seeded when it is made.

    :param config: arguments of ``envpool.make``
    :raises ValueError: if EnvPool is not installed
    """

    _pool: Any = None  # until it is made, which may fail

    def __init__(self, env_id: str, num_envs: int, seed: int | None = None, **config: Any) -> None:
        try:
            envpool = import_module("envpool")
        except ImportError as error:
            raise ValueError(
                "backend='envpool' needs EnvPool, which is not installed: pip install 'sb3_pg[envpool]', or write "
                "backend='auto'"
            ) from error
        self.metadata = {"autoreset_mode": AutoresetMode.DISABLED}
        self.num_envs = num_envs
        self._make = partial(envpool.make, env_id, env_type="gymnasium", num_envs=num_envs, **config)
        self._new_pool(seed)
        self.single_observation_space = self._pool.observation_space
        self.single_action_space = self._pool.action_space
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)

    def _new_pool(self, seed: int | None) -> None:
        seed = self._in_range(int(np.random.randint(2**31)) if seed is None else seed)
        self._pool = self._make(seed=seed)
        self._unused_seed: int | None = seed

    def _in_range(self, seed: int) -> int:
        """As EnvPool counts on from it, and must not come to 2**31."""
        return seed % (2**31 - self.num_envs)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        """Reset all environments, or those of ``options["reset_mask"]``."""
        mask = None if options is None else options.get("reset_mask")
        if mask is None:
            if seed is not None and self._in_range(seed) != self._unused_seed:
                self._pool.close()
                self._new_pool(seed)
            self._unused_seed = None
            self._obs, _ = self._pool.reset()
            return self._obs, {}
        # EnvPool would reset these in their next step, but it can reset some alone.
        obs = deepcopy(self._obs)
        first_obs, _ = self._pool.reset(np.flatnonzero(mask).astype(np.int32))
        for array, first in (
            [(obs[key], first_obs[key]) for key in obs] if isinstance(obs, dict) else [(obs, first_obs)]
        ):
            array[mask] = first
        return obs, {}

    def step(self, actions: Any) -> tuple[Any, Any, Any, Any, dict[str, Any]]:
        """Step all environments."""
        self._obs, rewards, terminated, truncated, infos = self._pool.step(actions)
        # EnvPool's own book-keeping, in other shapes
        infos = {key: value for key, value in infos.items() if key not in ("env_id", "players")}
        return self._obs, rewards, terminated, truncated, infos

    def close_extras(self, **kwargs: Any) -> None:
        """Stop the threads."""
        if self._pool is not None:
            self._pool.close()
