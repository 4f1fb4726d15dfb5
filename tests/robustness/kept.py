"""All that a model and its VecNormalize wrappers keep, as a nest of plain dictionaries, lists, tensors and numbers."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.running_mean_std import RunningMeanStd
from stable_baselines3.common.vec_env import VecEnv, VecEnvWrapper, VecNormalize

#: Numbers that an update changes.
COUNTED = ("_mean_length", "kl_coef", "_n_updates", "_iterations_without_update")


def of_model(model: BaseAlgorithm) -> dict[str, Any]:
    """Parameters, buffers, optimizers, the history and the numbers that are kept, copied."""
    counted = {name: getattr(model, name) for name in COUNTED if hasattr(model, name)}
    past = [*getattr(model, "replay_buffer", ())]
    return {"parameters": copied(model.get_parameters()), "counted": counted, "history": copied(past)}


def of_wrappers(env: VecEnv) -> list[dict[str, Any]]:
    """The statistics of each VecNormalize, and what it was given last, copied."""
    found = []
    while isinstance(env, VecEnvWrapper):
        if isinstance(env, VecNormalize):
            names = ("obs_rms", "ret_rms", "returns", "old_obs", "old_reward")
            found.append({name: copied(getattr(env, name)) for name in names if hasattr(env, name)})
        env = env.venv
    return found


def copied(value: Any) -> Any:
    """A copy as plain dictionaries, lists and tensors."""
    if isinstance(value, (np.ndarray, np.generic)):
        return th.tensor(np.array(value))
    if isinstance(value, th.Tensor):
        return value.detach().clone()
    if isinstance(value, th.nn.Module):
        return copied(value.state_dict())
    if isinstance(value, RunningMeanStd):
        return copied(vars(value))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: copied(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {key: copied(one) for key, one in value.items()}
    return [copied(one) for one in value] if isinstance(value, (list, tuple)) else value


def not_finite(nest: Any, path: str = "") -> Iterator[str]:
    """Where it holds a number that is not."""
    if isinstance(nest, Mapping):
        for key, one in nest.items():
            yield from not_finite(one, f"{path}/{key}")
    elif isinstance(nest, (list, tuple)):
        for place, one in enumerate(nest):
            yield from not_finite(one, f"{path}/{place}")
    elif isinstance(nest, th.Tensor):
        if not bool(nest.isfinite().all()):
            yield path
    elif isinstance(nest, float) and not math.isfinite(nest):
        yield path
