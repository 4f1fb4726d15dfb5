"""What a saved model may hold beside numbers, texts and containers, and how each of these is made anew.

No ``__setstate__`` of somebody else's is called with what a file says: spaces and schedules are made by their
constructors, arrays and numbers from their bytes.
"""

from __future__ import annotations

import importlib
import inspect
import math
import pathlib
import re
from collections import OrderedDict, deque
from collections.abc import Callable, Iterable, Iterator
from functools import cache, partial
from typing import Any, get_origin

import numpy as np
import torch as th
from gymnasium import spaces
from sb3_contrib.common.maskable import policies as maskable_policies
from stable_baselines3.common import buffers, policies, torch_layers
from stable_baselines3.common.sb2_compat.rmsprop_tf_like import RMSpropTFLike
from stable_baselines3.common.utils import ConstantSchedule, FloatSchedule, LinearSchedule
from torch import nn

from sb3_pg.common.unpickling import Known, RefusedError, name_of
from sb3_pg.data.checks import is_number
from sb3_pg.policies import actor, critic, diffusion, maskable
from sb3_pg.policies.sequence import attention, masked, recurrent, tokens
from sb3_pg.rollout import buffers as episode_buffers

#: Types of numbers: truth values, integers, floating-point and complex numbers, texts of a fixed length.
DTYPE = re.compile(r"[biufc]\d+|[SU][1-9]\d*|\?")
#: What is made anew by its constructor -> which of its attributes the constructor takes.
REMADE: dict[type, tuple[str, ...]] = {
    spaces.Box: ("low", "high", "dtype"),
    spaces.Discrete: ("n", "start"),
    spaces.MultiDiscrete: ("nvec", "dtype", "start"),
    spaces.MultiBinary: ("n",),
    spaces.Dict: ("spaces",),
    FloatSchedule: ("value_schedule",),
    ConstantSchedule: ("val",),
    LinearSchedule: ("start", "end", "end_fraction"),
}
#: The same where the package need not be there, and is not imported before a file says so.
REMADE_OF_OTHERS: dict[tuple[str, str], tuple[str, ...]] = {
    ("rl_zoo3.utils", "SimpleLinearSchedule"): ("initial_value",),
}
#: Classes that are only said: those of these kinds, where they are.
SAID: tuple[tuple[Any, type], ...] = (
    (policies, policies.ActorCriticPolicy),
    (maskable_policies, maskable_policies.MaskableActorCriticPolicy),
    (actor, policies.ActorCriticPolicy),
    (critic, policies.ActorCriticPolicy),
    (critic, maskable_policies.MaskableActorCriticPolicy),
    (maskable, maskable_policies.MaskableActorCriticPolicy),
    (diffusion, policies.ActorCriticPolicy),
    (recurrent, policies.ActorCriticPolicy),
    (attention, policies.ActorCriticPolicy),
    (masked, policies.ActorCriticPolicy),
    (masked, maskable_policies.MaskableActorCriticPolicy),
    (torch_layers, torch_layers.BaseFeaturesExtractor),
    (tokens, torch_layers.BaseFeaturesExtractor),
    (buffers, buffers.RolloutBuffer),
    (episode_buffers, buffers.RolloutBuffer),
    (nn.modules.activation, nn.Module),
    (th.optim, th.optim.Optimizer),
)


class _LeftOut:
    """In the place of what a generator was seeded with: its state is what counts."""


def known_with(trusted: Iterable[Any]) -> Known:
    """What is known, and classes and functions that the user trusts.

    :raises ValueError: for what is neither
    """
    known = _known()
    for one in trusted:
        if not (inspect.isclass(one) or inspect.isfunction(one)):
            raise ValueError(f"trust must be True, False or a list of classes and functions, got {one!r} in it")
        named = Known({name_of(one): one})
        if inspect.isclass(one):
            named.calls[id(one)], named.instances[id(one)] = one, partial(one.__new__, one)
            named.states[name_of(one)] = _set_any_state
        known = known | named
    return known


@cache
def _known() -> Known:
    said = [value for home, kind in SAID for value in vars(home).values() if _is_class(value, kind)]
    said += [nn.Identity, RMSpropTFLike, np.ndarray, np.random.PCG64]
    said += [kind for kind in set(np.sctypeDict.values()) if DTYPE.fullmatch(np.dtype(kind).str.lstrip("<>=|"))]
    known = Known({name_of(one): one for one in said})
    for cls, attributes in REMADE.items():
        _add_remade(known, name_of(cls), cls, partial(_empty, cls), attributes)
    for name, attributes in REMADE_OF_OTHERS.items():
        make = partial(_empty_of_another, *name)
        _add_remade(known, name, make, make, attributes)
    for module, qualname, value, called in _makers():
        known.names[module, qualname], known.calls[id(value)] = value, called
    codes = np.typecodes["AllInteger"] + np.typecodes["AllFloat"] + "?SU"
    known.states |= {name_of(type(np.dtype(code))): _check_dtype for code in codes}
    known.states |= {name_of(np.ndarray): _fill, name_of(_LeftOut): _leave_out}
    known.states |= {name_of(np.random.PCG64): _set_bits, name_of(np.random.Generator): _set_generator}
    return known


def _add_remade(
    known: Known, name: tuple[str, str], value: object, make: Callable[[], object], attributes: tuple[str, ...]
) -> None:
    known.names[name], known.instances[id(value)], known.states[name] = value, make, partial(_remake, attributes)


def _makers() -> Iterator[tuple[str, str, Any, Callable[..., object]]]:
    """Module and name of what is called, what stands for it, and what is called in its place."""
    yield "collections", "deque", deque, _deque
    yield "collections", "OrderedDict", OrderedDict, _ordered
    yield "numpy", "dtype", np.dtype, _dtype
    for core in ("numpy._core", "numpy.core"):
        yield f"{core}.numeric", "_frombuffer", _array, _array
        yield f"{core}.multiarray", "_reconstruct", _empty_array, _empty_array
        yield f"{core}.multiarray", "scalar", _scalar, _scalar
    yield "numpy.random._pickle", "__generator_ctor", _generator, _generator
    yield "numpy.random._pickle", "__bit_generator_ctor", _bits, _bits
    yield "numpy.random.bit_generator", "__pyx_unpickle_SeedSequence", _seeds, _seeds
    yield "numpy.random.bit_generator", "SeedSequence", _LeftOut, _seeds
    for module in ("pathlib", "pathlib._local"):
        for name in ("PosixPath", "WindowsPath"):
            yield module, name, _path, _path


def _is_class(value: object, kind: type) -> bool:
    # In Python 3.10 a Callable[[float], float] is a type too
    return isinstance(value, type) and get_origin(value) is None and issubclass(value, kind)


def _refuse_unless(is_right: bool, what: str) -> None:
    if not is_right:
        raise RefusedError(what)


# --- containers and paths -------------------------------------------------------------------------------------------


def _deque(values: Any = (), maxlen: Any = None) -> deque[Any]:
    _refuse_unless(type(values) in (list, tuple) and (maxlen is None or type(maxlen) is int), "a deque of its own kind")
    return deque(values, maxlen)


def _ordered(*values: Any) -> OrderedDict[Any, Any]:
    _refuse_unless(not values, "a dictionary of its own kind")
    return OrderedDict()


def _path(*parts: Any) -> pathlib.Path:
    _refuse_unless(all(type(part) is str for part in parts), "a path that is no text")
    return pathlib.Path(*parts)


# --- numbers and arrays ---------------------------------------------------------------------------------------------


def _dtype(kind: Any, *_: Any) -> np.dtype[Any]:
    _refuse_unless(type(kind) is str and DTYPE.fullmatch(kind) is not None, "an array of something else than numbers")
    dtype: np.dtype[Any] = np.dtype(kind)
    return dtype


def _check_dtype(dtype: np.dtype[Any], state: Any) -> None:
    """A state that is not the one which a type of numbers of this machine has, such as another order of bytes."""
    reduced: Any = dtype.__reduce__()
    _refuse_unless(type(state) is tuple and len(state) == len(reduced[2]), "a type of numbers of its own kind")
    same = all(type(one) is type(own) and one == own for one, own in zip(state, reduced[2], strict=True))
    _refuse_unless(same, "a type of numbers of its own kind")


def _array(data: Any, dtype: Any, shape: Any, order: Any, axes: Any = None) -> np.ndarray:
    _refuse_unless(type(data) in (bytes, bytearray) and isinstance(dtype, np.dtype), "an array not of bytes")
    # The axes in the order of the bytes, for an array whose own order is another one
    array: np.ndarray = np.frombuffer(data, dtype).reshape(shape, order="C" if order == "K" else order)
    return array if axes is None else array.transpose(axes)


def _empty_array(cls: Any, shape: Any, _: Any) -> np.ndarray:
    _refuse_unless(cls is np.ndarray and shape == (0,), "an array of its own kind")
    return np.empty(0, np.int8)


def _fill(array: np.ndarray, state: Any) -> None:
    _refuse_unless(array.shape == (0,) and type(state) is tuple and len(state) == 5, "an array of its own kind")
    _, shape, dtype, _, data = state
    is_array = isinstance(dtype, np.dtype) and type(data) is bytes and type(shape) is tuple
    _refuse_unless(is_array and all(type(size) is int and size >= 0 for size in shape), "an array not of bytes")
    _refuse_unless(math.prod(shape) * dtype.itemsize == len(data), "an array of more than its bytes")
    array.__setstate__(state)


def _scalar(dtype: Any, data: Any) -> np.generic:
    is_one = isinstance(dtype, np.dtype) and type(data) is bytes and len(data) == dtype.itemsize
    _refuse_unless(is_one, "a number not of bytes")
    number: np.generic = np.frombuffer(data, dtype)[0]
    return number


# --- random states --------------------------------------------------------------------------------------------------


def _bits(kind: Any = "PCG64", *_: Any) -> np.random.PCG64:
    _refuse_unless(kind is np.random.PCG64 or kind == "PCG64", "a random generator of another kind than PCG64")
    return np.random.PCG64(0)


def _set_bits(bits: np.random.PCG64, state: Any) -> None:
    numbers = state[0] if type(state) is tuple and state else state
    _refuse_unless(type(numbers) is dict, "a random state of its own kind")
    bits.state = numbers


def _generator(bits: Any = "PCG64", *_: Any) -> np.random.Generator:
    return np.random.Generator(bits if type(bits) is np.random.PCG64 else _bits(bits))


def _set_generator(generator: np.random.Generator, state: Any) -> None:
    bits: Any = generator.bit_generator
    _set_bits(bits, state)


def _seeds(*_: Any) -> _LeftOut:
    return _LeftOut()


def _leave_out(_: _LeftOut, __: Any) -> None:
    pass


# --- spaces, schedules, and what the user trusts --------------------------------------------------------------------


def _empty(cls: type, *values: Any) -> Any:
    _refuse_unless(not values, f"a {cls.__name__} of its own kind")
    return object.__new__(cls)


def _empty_of_another(module: str, name: str, *values: Any) -> Any:
    try:
        return _empty(getattr(importlib.import_module(module), name), *values)
    except (ImportError, AttributeError) as error:
        raise RefusedError(f"{module}.{name}, which is not installed") from error


def _remake(attributes: tuple[str, ...], made: Any, state: Any) -> None:
    """Have the constructor make it, from those attributes that it takes."""
    name = type(made).__name__
    _refuse_unless(type(state) is dict and state.keys() >= set(attributes), f"a {name} of its own kind")
    arguments = {attribute: state[attribute] for attribute in attributes}
    if isinstance(made, spaces.Box):
        _refuse_unless(all(type(state[bound]) is np.ndarray for bound in ("low", "high")), "a Box without bounds")
    elif isinstance(made, spaces.Dict):
        inner = arguments["spaces"]
        is_flat = type(inner) in (dict, OrderedDict) and all(type(one) in REMADE for one in inner.values())
        _refuse_unless(is_flat and spaces.Dict not in map(type, inner.values()), "a Dict of something else than spaces")
    elif not isinstance(made, (spaces.Space, FloatSchedule)):
        _refuse_unless(all(map(is_number, arguments.values())), f"a {name} of something else than numbers")
    type(made).__init__(made, **arguments)
    _set_rest(made, state)


def _set_rest(made: Any, state: dict[Any, Any]) -> None:
    """What the constructor of a space does not take: its random state, the order of its keys, which bounds are none."""
    if type(state.get("_np_random")) is np.random.Generator:
        made._np_random = state["_np_random"]
    if isinstance(made, spaces.Dict):
        made.spaces = dict(state["spaces"])
    if isinstance(made, spaces.Box):
        for name in ("bounded_below", "bounded_above"):
            bounded = state.get(name)
            if type(bounded) is np.ndarray and bounded.dtype == np.bool_ and bounded.shape == made.shape:
                setattr(made, name, bounded)


def _set_any_state(made: Any, state: Any) -> None:
    """As pickle does it."""
    if hasattr(made, "__setstate__"):
        made.__setstate__(state)
        return
    parts = state if isinstance(state, tuple) and len(state) == 2 else (state, None)
    for name, value in ((name, value) for part in parts if part for name, value in part.items()):
        setattr(made, name, value)
