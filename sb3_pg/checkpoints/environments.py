"""What environments and their wrappers are in the middle of: taken from them, and put back in place."""

from __future__ import annotations

import functools
import random
import sys
import types
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch as th
from gymnasium.vector import AsyncVectorEnv
from stable_baselines3.common.monitor import ResultsWriter
from stable_baselines3.common.vec_env import SubprocVecEnv, VecEnvWrapper, VecNormalize

from sb3_pg.checkpoints.log_files import contents, rewrite
from sb3_pg.checkpoints.pickling import ENVIRONMENTS, dumps, loads, unpicklable

#: What an object has from its class, or from its processes, and is not its state.
NO_STATE: dict[type, frozenset[str]] = {
    VecEnvWrapper: frozenset({"class_attributes"}),
    SubprocVecEnv: frozenset({"remotes", "work_remotes", "processes", "waiting", "closed"}),
}
#: Code, not state: made by who built the environment.
CODE = (types.FunctionType, types.MethodType, types.BuiltinFunctionType, functools.partial)
_IN_WORKER = "_sb3_pg_in_worker"


class CannotBeSavedError(Exception):
    """What an environment is in the middle of cannot be pickled."""


def environments(roots: Mapping[str, object], known: Mapping[str, object] | None = None) -> dict[str, Any]:
    """The environments, what they wrap, and what that wraps: name -> each of them, once.

    :param roots: name -> the outermost
    :param known: which to leave out
    """
    found: dict[str, Any] = {}
    seen = {id(one) for one in (known or {}).values()}

    def visit(name: str, one: object) -> None:
        if id(one) in seen or not isinstance(one, ENVIRONMENTS):
            return
        seen.add(id(one))
        found[name] = one
        for attribute, value in list(getattr(one, "__dict__", {}).items()):
            for key, part in _parts(value):
                visit(f"{name}.{attribute}{key}", part)

    for name, root in roots.items():
        visit(name, root)
    return found


def kinds(found: Mapping[str, object]) -> dict[str, str]:
    """The class of each environment."""
    return {name: f"{type(one).__module__}.{type(one).__qualname__}" for name, one in found.items()}


def writers(found: Mapping[str, object]) -> dict[str, ResultsWriter]:
    """The files that monitors write, by the names of the environments."""
    return {
        f"{name}.{attribute}": value
        for name, one in found.items()
        for attribute, value in getattr(one, "__dict__", {}).items()
        if isinstance(value, ResultsWriter)
    }


def state_of(found: Mapping[str, Any]) -> dict[str, Any]:
    """What the environments are in the middle of, to be pickled with them, and with :func:`writers`, left out.

    :raises CannotBeSavedError: if an environment cannot say
    """
    workers: dict[str, list[bytes]] = {}
    for name, one in found.items():
        if isinstance(one, (SubprocVecEnv, AsyncVectorEnv)):
            workers[name] = _call_workers(one, [None] * one.num_envs)
        elif not hasattr(one, "__dict__"):
            raise CannotBeSavedError(f"{type(one).__name__} has no attributes")
    return {
        "attributes": {name: attributes_of(one) for name, one in found.items()},
        "workers": workers,
        "files": {name: contents(writer.file_handler) for name, writer in writers(found).items()},
    }


def put_back(found: Mapping[str, Any], state: Mapping[str, Any]) -> None:
    """Have the environments go on from what :func:`state_of` took, the same objects as now."""
    for name, attributes in state["attributes"].items():
        one = found[name]
        for attribute in attributes_of(one).keys() - attributes.keys():
            del vars(one)[attribute]
        vars(one).update(attributes)
    for name, of_each in state["workers"].items():
        _call_workers(found[name], of_each)
    there = writers(found)
    for name, text in state["files"].items():
        if text is not None and name in there:
            rewrite(there[name].file_handler, text)


def attributes_of(one: object) -> dict[str, Any]:
    """The attributes of an environment that are its state."""
    if isinstance(one, AsyncVectorEnv):  # which has processes and their memory, and nothing else
        return {}
    kinds = [kind for kind in NO_STATE if isinstance(one, kind)]
    leave_out = frozenset[str]().union(*(NO_STATE[kind] for kind in kinds))
    return {name: value for name, value in vars(one).items() if name not in leave_out and not isinstance(value, CODE)}


def statistics_of(found: Mapping[str, object]) -> dict[str, dict[str, Any]]:
    """The running means of each VecNormalize: what is kept where the rest cannot be."""
    names = ("obs_rms", "ret_rms")
    normalizers = {name: one for name, one in found.items() if isinstance(one, VecNormalize)}
    return {name: {part: vars(one)[part] for part in names if part in vars(one)} for name, one in normalizers.items()}


def random_states() -> dict[str, Any]:
    """The states of the random generators that everybody shares."""
    return {
        "python": random.getstate(),
        "numpy": np.random.get_state(),
        "torch": th.get_rng_state(),
        "cuda": th.cuda.get_rng_state_all() if th.cuda.is_available() else [],
    }


def set_random_states(states: Mapping[str, Any]) -> None:
    """Have the random generators go on from there."""
    random.setstate(states["python"])
    np.random.set_state(states["numpy"])
    th.set_rng_state(states["torch"].cpu())
    if len(states["cuda"]) == (th.cuda.device_count() if th.cuda.is_available() else 0):
        th.cuda.set_rng_state_all([state.cpu() for state in states["cuda"]])


def _parts(value: object) -> Iterator[tuple[str, object]]:
    """What an attribute may have environments in: itself, or a list of them."""
    if isinstance(value, (list, tuple)):
        yield from ((f".{idx}", one) for idx, one in enumerate(value))
    elif isinstance(value, dict):
        yield from ((f".{key}", one) for key, one in value.items())
    else:
        yield "", value


class _InWorker:
    """Called in the process of an environment: take from it, or put back, what it is in the middle of.

    :param data: what to put back; None to take
    """

    def __init__(self, data: bytes | None):
        self.data = data

    def __call__(self) -> tuple[bool, bytes | str]:
        env = sys._getframe(1).f_locals["env"]  # of the worker's loop, which has no other way to it
        found = environments({"env": env})
        for one in found.values():
            vars(one).pop(_IN_WORKER, None)
        present = {**found, **writers(found)}
        try:
            if self.data is None:
                return True, dumps({"environments": state_of(found), "random": random_states()}, present)
            taken = loads(self.data, present)
            put_back(found, taken["environments"])
            set_random_states(taken["random"])
            return True, b""
        except Exception:  # raised here it would end the process
            return False, unpicklable({type(one).__name__: attributes_of(one) for one in found.values()}, present)


def _call_workers(vec_env: SubprocVecEnv | AsyncVectorEnv, data: list[Any]) -> list[bytes]:
    if isinstance(vec_env, SubprocVecEnv):
        for idx, one in enumerate(data):
            vec_env.set_attr(_IN_WORKER, _InWorker(one), indices=[idx])
        answers = vec_env.env_method(_IN_WORKER)
    else:
        vec_env.set_attr(_IN_WORKER, [_InWorker(one) for one in data])
        answers = list(vec_env.call(_IN_WORKER))
    for is_done, answer in answers:
        if not is_done:
            raise CannotBeSavedError(answer)
    return [answer for _, answer in answers]
