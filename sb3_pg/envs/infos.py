"""One environment's infos, from those of a vector environment."""

from __future__ import annotations

from copy import deepcopy
from functools import partial
from typing import Any

import numpy as np
from gymnasium.vector import AsyncVectorEnv, SyncVectorEnv, VectorEnv

#: Where :func:`keep_rows` has the infos put, as a list with a dictionary for each environment
ROWS = "sb3_pg_rows"


def keep_rows(vector_env: VectorEnv[Any, Any, Any]) -> None:
    """Have Gymnasium's Sync or Async environment hand on each environment's infos as they are.

    It would gather them in an array of the type of the first that it meets: 0.25 after a 1 becomes 0, None after a
    number is a TypeError, and so is a list of another length. Under wrappers, which may look for these arrays, that is
    left as it is.
    """
    if type(vector_env) in (SyncVectorEnv, AsyncVectorEnv):
        vector_env._add_info = partial(add_row, vector_env.num_envs)  # type: ignore[method-assign]


def add_row(num_envs: int, infos: dict[str, Any], info: dict[str, Any], idx: int) -> dict[str, Any]:
    """Add one environment's infos to those of all, in the place of ``VectorEnv._add_info``."""
    if info:
        infos.setdefault(ROWS, [{} for _ in range(num_envs)])[idx].update(info)
    return infos


def info_of(infos: dict[Any, Any], idx: int) -> dict[Any, Any]:
    """One environment's infos, from rows or from a dictionary of arrays in which ``_key`` masks who gave ``key``."""
    if not infos:
        return {}
    if ROWS in infos:
        # The environment may write to its lists and arrays again.
        return deepcopy(infos[ROWS][idx])
    info: dict[Any, Any] = {}
    masks = {f"_{key}" for key in infos}
    for key, values in infos.items():
        if key in masks:
            continue
        mask = infos.get(f"_{key}")
        if mask is not None and not mask[idx]:
            continue
        if isinstance(values, dict):
            info[key] = info_of(values, idx)
        elif isinstance(values, (np.ndarray, list, tuple)):
            value = values[idx]
            info[key] = value.item() if isinstance(value, np.generic) else deepcopy(value)
        else:
            info[key] = values
    return info
