"""What each contender trains with: its configuration for an environment, wherever that is, and what was said of it."""

from __future__ import annotations

import importlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym
import rl_zoo3
from gymnasium import spaces
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.preprocessing import is_image_space

from sb3_pg.compare.grid.contenders import Contender, algorithm_class
from sb3_pg.zoo.configs import config_path, read_configs
from sb3_pg.zoo.registration import OURS

CONFIGS = ("zoo", "defaults")


@dataclass(frozen=True)
class Task:
    """An environment that is there.

    :param env_id: as it is registered, like ``CartPole-v1``
    :param module: what registers it, to be imported first; empty where Gymnasium knows it by itself
    """

    env_id: str
    module: str = ""


@dataclass(frozen=True)
class Configuration:
    """The hyperparameters of one contender on one environment.

    :param settings: in the Zoo's format, without ``n_timesteps``
    :param n_timesteps: what the configuration would train for; None if it does not say
    :param remarks: where the settings come from, if not from a section for the environment itself
    """

    settings: dict[str, Any]
    n_timesteps: int | None = None
    remarks: tuple[str, ...] = ()


def find_task(text: str) -> Task:
    """The environment of an id, ``CartPole-v1``, or ``my_module:MyEnv-v0`` for one that a module registers.

    :raises ValueError: if there is none, with Gymnasium's nearest one
    """
    module, _, env_id = text.rpartition(":")
    try:
        if module:
            importlib.import_module(module)
        spec = gym.spec(env_id)
    except (gym.error.Error, ModuleNotFoundError) as error:
        raise ValueError(f"there is no environment {text}: {' '.join(str(error).split())}") from error
    return Task(spec.id, module)


def configuration(contender: Contender, task: Task, config: str = "zoo", n_envs: int | None = None) -> Configuration:
    """What a contender trains with on an environment.

    :param config: ``"zoo"``, or ``"defaults"`` for those of the constructor
    :param n_envs: environments side by side for everybody; None: as the configuration says, or one
    """
    algorithm = algorithm_class(contender.algorithm)
    settings, remarks = _zoo_section(contender.algorithm, task.env_id) if config == "zoo" else ({}, ())
    if n_envs is not None:
        settings["n_envs"] = n_envs
    settings |= contender.overrides
    if "policy" not in settings:
        settings["policy"] = _policy(algorithm, task.env_id)
    n_timesteps = settings.pop("n_timesteps", None)
    return Configuration(settings, None if n_timesteps is None else int(n_timesteps), remarks)


def _zoo_section(algorithm: str, env_id: str) -> tuple[dict[str, Any], tuple[str, ...]]:
    """The settings for an environment in the Zoo's file for an algorithm, and a remark if it is not its own section."""
    path = (
        config_path(algorithm) if algorithm in OURS else Path(rl_zoo3.__file__).parent / f"hyperparams/{algorithm}.yml"
    )
    if "." in algorithm or not path.is_file():
        return {}, (f"{algorithm} has no configurations: it has the defaults of its constructor",)
    sections = read_configs(path)
    section = _section(sections, env_id)
    if section is None:
        return {}, (f"{path.name} has nothing for {env_id}: {algorithm} has the defaults of its constructor",)
    remark = f"{path.name} has no section {env_id}: {algorithm} is configured by its section {section}"
    return dict(sections[section]), () if section == env_id else (remark,)


def _section(sections: dict[str, Any], env_id: str) -> str | None:
    """An environment's own section, else the nearest version's of the same task, else a common one."""
    if env_id in sections:
        return env_id
    name, version = _split(env_id)
    versions = {number: other for other in sections for base, number in [_split(other)] if base == name}
    if versions:
        return versions[min(versions, key=lambda number: (abs(number - version), number))]
    common = ("atari", "default") if "AtariEnv" in str(gym.spec(env_id).entry_point) else ("default",)
    return next((section for section in common if section in sections), None)


def _split(env_id: str) -> tuple[str, int]:
    match = re.fullmatch(r"(.+)-v(\d+)", env_id)
    return (match[1], int(match[2])) if match else (env_id, 0)


def _policy(algorithm: type[BaseAlgorithm], env_id: str) -> str:
    """The alias of the algorithm's policy for what the environment shows: numbers, an image, a dictionary."""
    env = gym.make(env_id)
    space = env.observation_space
    env.close()
    kind = "MultiInput" if isinstance(space, spaces.Dict) else "Cnn" if is_image_space(space) else "Mlp"
    aliases = sorted(alias for alias in algorithm.policy_aliases if alias.startswith(kind))
    if not aliases:
        raise ValueError(f"{algorithm.__name__} has no {kind}Policy for {env_id}: write :policy=... behind its name")
    return f"{kind}Policy" if f"{kind}Policy" in aliases else aliases[0]
