"""Folders that describe themselves: runs of the RL Zoo, and our cells, which are such runs with a ``cell.json``."""

from __future__ import annotations

import ast
import inspect
import json
import shlex
from pathlib import Path
from typing import Any

import gymnasium as gym
import yaml
from stable_baselines3.common.vec_env import VecNormalize

from sb3_pg.compare.invocation import as_typed
from sb3_pg.compare.reading.description import Description
from sb3_pg.compare.reading.files import Remarks, cannot_read, integer, whole_lines

CELL = "cell.json"

PYTHON = "tag:yaml.org,2002:python/"


class _Loader(yaml.SafeLoader):
    """YAML that names Python objects without making them: dictionaries and tuples as such, all others as text."""


def _ordered(loader: _Loader, node: yaml.Node) -> dict[Any, Any]:
    # One argument: a list of pairs
    arguments = loader.construct_sequence(node, deep=True) if isinstance(node, yaml.SequenceNode) else []
    pairs = arguments[0] if arguments and isinstance(arguments[0], list) else []
    # The last pair of a file that was cut may lack its value
    return {pair[0]: pair[1] for pair in pairs if isinstance(pair, list) and len(pair) == 2}


def _tuple(loader: _Loader, node: yaml.Node) -> tuple[Any, ...]:
    return tuple(loader.construct_sequence(node, deep=True)) if isinstance(node, yaml.SequenceNode) else ()


def _text(loader: _Loader, suffix: str, node: yaml.Node) -> str:
    name = suffix.partition(":")[2] or suffix
    if isinstance(node, yaml.SequenceNode):
        return f"{name}({', '.join(map(str, loader.construct_sequence(node, deep=True)))})"
    if isinstance(node, yaml.MappingNode):
        arguments = loader.construct_mapping(node, deep=True)
        return f"{name}({', '.join(f'{key}={value}' for key, value in arguments.items())})"
    return f"{name}({node.value})" if node.value else name


_Loader.add_constructor(f"{PYTHON}object/apply:collections.OrderedDict", _ordered)
_Loader.add_constructor(f"{PYTHON}tuple", _tuple)
_Loader.add_multi_constructor(PYTHON, _text)
_Loader.add_multi_constructor("!", _text)


def parameter_folder(folder: Path) -> Path | None:
    """Where a Zoo run keeps its settings: ``CartPole-v1/`` in ``CartPole-v1_2/``; None if it is no Zoo run."""
    inside = (path.parent for path in folder.glob("*/config.yml"))
    return next((path for path in inside if folder.name.startswith(f"{path.name}_")), None)


def read_zoo(folder: Path, parameters: Path) -> Description:
    """What a Zoo run says of itself."""
    settings, remarks = _yaml(parameters / "config.yml")
    args, more = _yaml(parameters / "args.yml")
    env_id = str(args.get("env") or parameters.name)
    model = args.get("trained_agent")
    if model:
        more += (f"args.yml: it went on from {model}, which had been trained before",)
    command = parameters / "command.txt"
    return Description(
        algorithm=str(args.get("algo") or folder.parent.name),
        env_id=env_id,
        seed=integer(args.get("seed")),
        # -1: the configuration's
        budget=integer(max(args.get("n_timesteps") or 0, 0)) or integer(settings.get("n_timesteps")),
        deterministic=_acts_by_mode(env_id),
        settings=settings,
        facts={
            "n_envs": integer(settings.get("n_envs", 1)) if settings else None,
            "normalization": _normalization(settings) if settings else None,
            "eval_every": integer(args.get("eval_freq")),
            "n_eval_episodes": integer(args.get("eval_episodes")),
            "command": " ".join(as_typed(command.read_text(errors="replace").split())) if command.is_file() else None,
        },
        remarks=remarks + more,
    )


def read_cell(path: Path) -> Description:
    """What ``cell.json`` says: what :class:`~sb3_pg.compare.records.Record` has no name for is a fact."""
    try:
        cell = json.loads(path.read_text(errors="replace"))
        if not isinstance(cell, dict):
            raise ValueError("it is no JSON object")
    except (OSError, ValueError) as error:
        return Description(remarks=(cannot_read(path, error),))
    known = {"label", "env_id", "seed", "budget", "deterministic", "settings", "error", "remarks"}
    facts = {name: value for name, value in cell.items() if name not in known}
    if "normalization" in facts:
        facts["normalization"] = facts["normalization"] or False
    if isinstance(facts.get("command"), list):
        facts["command"] = shlex.join(as_typed([str(word) for word in facts["command"]]))
    return Description(
        algorithm=cell.get("label") or cell.get("algorithm"),
        env_id=cell.get("env_id"),
        seed=integer(cell.get("seed")),
        budget=integer(cell.get("budget")),
        deterministic=cell.get("deterministic"),
        settings=cell.get("settings") or {},
        facts=facts,
        error=cell.get("error") or "",
        remarks=tuple(cell.get("remarks") or ()),
    )


def _normalization(settings: dict[str, Any]) -> Any:
    """The arguments that the Zoo gives VecNormalize, those that it leaves to it included; False without."""
    given = settings.get("normalize", False)
    if isinstance(given, str):
        given = _keywords(given) or given
    if not given or isinstance(given, str):
        return given
    parameters = inspect.signature(VecNormalize).parameters
    names = ("norm_obs", "norm_reward", "clip_obs", "clip_reward", "gamma", "epsilon")
    gamma = {"gamma": settings["gamma"]} if "gamma" in settings else {}
    return {name: parameters[name].default for name in names} | (given if isinstance(given, dict) else {}) | gamma


def _keywords(text: str) -> dict[str, Any] | None:
    """What ``dict(norm_obs=True)`` or ``{'norm_obs': True}`` says, without running it."""
    try:
        expression = ast.parse(text.strip(), mode="eval").body
        if isinstance(expression, ast.Call):
            return {str(keyword.arg): ast.literal_eval(keyword.value) for keyword in expression.keywords}
        value = ast.literal_eval(expression)
    except (SyntaxError, ValueError):
        return None
    return value if isinstance(value, dict) else None


def _yaml(path: Path) -> tuple[dict[str, Any], Remarks]:
    if not path.is_file():
        return {}, (f"{path.name}: is missing",)
    text, remarks = whole_lines(path)
    try:
        content = yaml.load(text, _Loader)  # which makes nothing but what the safe loader makes, and text
    except (yaml.YAMLError, ValueError, TypeError, IndexError, RecursionError) as error:
        return {}, (*remarks, cannot_read(path, error))
    return (content, remarks) if isinstance(content, dict) else ({}, remarks)


def _acts_by_mode(env_id: str) -> bool | None:
    """Whether the Zoo evaluates deterministically: not in Atari games and MiniGrid; None if it isn't known."""
    try:
        entry_point = str(gym.spec(env_id).entry_point)
    except gym.error.Error:
        return None
    return not ("AtariEnv" in entry_point or "minigrid" in entry_point)
