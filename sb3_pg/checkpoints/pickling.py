"""One pickle of what belongs together, without the objects that are there already where it is read."""

from __future__ import annotations

import copyreg
import io
import pickle
from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import cloudpickle
import gymnasium as gym
import numpy as np
import torch as th
from gymnasium.utils import EzPickle
from gymnasium.vector import VectorEnv
from stable_baselines3.common.vec_env import VecEnv

#: What is stepped and reset.
ENVIRONMENTS = (VecEnv, gym.Env, VectorEnv)

# By name, what stands for the objects that a pickle under way leaves out
_PRESENT: list[Mapping[str, object]] = []


def dumps(value: object, present: Mapping[str, object]) -> bytes:
    """Pickle an object, what it refers to, and who else refers to the same.

    Tensors keep the storage, and arrays the memory, that they share. An environment is pickled as it is:
    ``EzPickle``, which would build a new one, is not asked.

    :param present: objects that are not pickled, by the name under which :func:`loads` is given another for it
    """
    file = io.BytesIO()
    module = SimpleNamespace(Pickler=_pickler(present), __name__="pickle")
    th.save(value, file, pickle_module=module, pickle_protocol=cloudpickle.DEFAULT_PROTOCOL)
    return file.getvalue()


def loads(data: bytes, present: Mapping[str, object], device: th.device | str | None = None) -> Any:
    """Read what :func:`dumps` wrote. This runs what the data say: they must come from where the program comes from.

    :param present: name -> what stands for the object that was left out under this name; None where there is nothing
    :param device: where its tensors go; None: where they were
    """
    _PRESENT.append(present)
    try:
        return th.load(io.BytesIO(data), map_location=device, weights_only=False)
    finally:
        _PRESENT.pop()


def look_of(value: object, present: Mapping[str, object]) -> bytes | None:
    """What an object looks like, to see later whether it has changed; None if it cannot be pickled."""
    file = io.BytesIO()
    try:
        _pickler(present)(file).dump(value)
    except Exception:  # whatever a user's object raises
        return None
    return file.getvalue()


def unpicklable(parts: Mapping[str, Mapping[str, object]], present: Mapping[str, object]) -> str:
    """Where the first attribute is that cannot be pickled, and why, in words.

    :param parts: what an object is called -> its attributes
    """
    for name, attributes in parts.items():
        for attribute, value in sorted(attributes.items(), key=lambda item: item[0].startswith("_")):  # a user's first
            try:
                dumps(value, present)
            except Exception as error:  # whatever a user's object raises
                return f"{name}.{attribute}: {error}"
    return "all of its parts together"


def _pickler(present: Mapping[str, object]) -> type[pickle.Pickler]:
    names = {id(one): name for name, one in present.items()}

    class Pickler(cloudpickle.Pickler):  # type: ignore[misc]  # without types
        def reducer_override(self, obj: Any) -> Any:
            if (name := names.get(id(obj))) is not None:
                return _stands_for, (name,)
            if _is_view(obj):
                return np.ndarray, (obj.shape, obj.dtype, obj.base, _offset(obj), obj.strides)
            if isinstance(obj, (*ENVIRONMENTS, EzPickle)) and hasattr(obj, "__dict__"):
                return copyreg.__newobj__, (type(obj),), vars(obj), None, None, _set_attributes  # type: ignore[attr-defined]
            return super().reducer_override(obj)

    return Pickler


def _stands_for(name: str) -> object:
    return _PRESENT[-1].get(name)


def _set_attributes(obj: object, attributes: Mapping[str, object]) -> None:
    vars(obj).update(attributes)


def _is_view(obj: object) -> bool:
    """Whether it is an array in the memory of another, which is pickled with it."""
    return (
        type(obj) is np.ndarray
        and type(obj.base) is np.ndarray
        and obj.base.flags.c_contiguous
        and not (obj.dtype.hasobject or obj.base.dtype.hasobject)
    )


def _offset(view: Any) -> int:
    """Bytes from the beginning of the other's memory."""
    first: int = view.__array_interface__["data"][0] - view.base.__array_interface__["data"][0]
    return first
