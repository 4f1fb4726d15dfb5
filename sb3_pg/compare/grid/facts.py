"""What else is worth knowing of a run: with what it ran, where, and what it trained."""

from __future__ import annotations

import inspect
import os
import platform
import re
import subprocess
from collections.abc import Collection, Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
from sb3_contrib import MaskablePPO, RecurrentPPO
from stable_baselines3 import PPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.vec_env import VecEnv, VecNormalize

#: What a run's numbers may depend on.
PACKAGES = "sb3-pg stable-baselines3 sb3-contrib rl_zoo3 gymnasium torch numpy mujoco ale-py box2d".split()
#: ``_n_updates`` counts gradient steps in SB3's and in our algorithms; in these it counts epochs.
COUNT_EPOCHS = (PPO, RecurrentPPO, MaskablePPO)
#: Arguments of a constructor that are no hyperparameters.
NO_HYPERPARAMETERS = {"env", "tensorboard_log", "verbose", "seed", "device", "_init_setup_model"}


class GradientSteps:
    """Counts the steps of a model's gradient, whatever its ``_n_updates`` counts."""

    def __init__(self, model: BaseAlgorithm) -> None:
        self._model = model
        self._steps: int | None = None
        if isinstance(model, COUNT_EPOCHS):
            self._steps = 0
            model.policy.optimizer.register_step_post_hook(self._note)

    @property
    def updates(self) -> int:
        """What the algorithm itself counts, and logs as ``train/n_updates``."""
        return int(getattr(self._model, "_n_updates", 0))

    @property
    def count(self) -> int:
        """Gradient steps since this counter was made."""
        return self.updates if self._steps is None else self._steps

    def _note(self, *_: Any) -> None:
        self._steps = (self._steps or 0) + 1


def plain(value: Any) -> Any:
    """A value as JSON has it: classes and functions are their names, other things their ``repr`` without an address."""
    if isinstance(value, Mapping):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(one) for one in value]
    if isinstance(value, np.generic):
        return plain(value.item())
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if name := getattr(value, "__qualname__", ""):
        return f"{value.__module__}.{name}"
    return re.sub(r" at 0x[0-9a-f]+", "", repr(value))


def versions() -> dict[str, str]:
    """Of Python and of the packages that are installed."""
    found = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def commit(folder: Path) -> str:
    """The commit that a checkout is at, with ``-dirty`` behind it if files differ from it; empty without a checkout."""
    head = _git(folder, "rev-parse", "HEAD")
    return f"{head}-dirty" if head and _git(folder, "status", "--porcelain", "--untracked-files=no") else head


def _git(folder: Path, *arguments: str) -> str:
    try:
        result = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return ""
    return result.stdout.strip()


def machine() -> dict[str, Any]:
    """The processor, how many cores it has, the system, the name in its network."""
    return {"cpu": _cpu(), "cores": os.cpu_count(), "system": platform.platform(), "host": platform.node()}


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())


def of_model(model: BaseAlgorithm, settings: Collection[str]) -> dict[str, Any]:
    """The class of a model and what it was made with.

    :param settings: the hyperparameters that its configuration has
    """
    return {
        "class": f"{type(model).__module__}.{type(model).__qualname__}",
        "n_envs": model.n_envs,
        "normalization": normalization(model.get_env()),
        "network": network(model),
        "defaults": defaults(type(model), settings),
    }


def network(model: BaseAlgorithm) -> dict[str, Any]:
    """The policy's class, the shapes of its layers' weights, and the number of its parameters."""
    layers = {
        name: list(module.weight.shape)
        for name, module in model.policy.named_modules()
        if isinstance(getattr(module, "weight", None), th.Tensor)
    }
    n_parameters = sum(parameter.numel() for parameter in model.policy.parameters())
    return {"policy": type(model.policy).__name__, "layers": layers, "parameters": n_parameters}


def normalization(env: VecEnv | None) -> dict[str, Any] | None:
    """What VecNormalize does to what the model sees; None without one."""
    while env is not None and not isinstance(env, VecNormalize):
        env = getattr(env, "venv", None)
    if env is None:
        return None
    names = ("norm_obs", "norm_reward", "clip_obs", "clip_reward", "gamma", "epsilon")
    return {name: plain(getattr(env, name)) for name in names}


def defaults(algorithm: type[BaseAlgorithm], settings: Collection[str]) -> dict[str, Any]:
    """The hyperparameters that a configuration leaves to the constructor."""
    parameters = inspect.signature(algorithm).parameters
    return {
        name: plain(parameter.default)
        for name, parameter in parameters.items()
        if parameter.default is not inspect.Parameter.empty and name not in {*NO_HYPERPARAMETERS, *settings}
    }
