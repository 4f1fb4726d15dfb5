"""Batches of the past on disk: tensors and plain data, which run nothing when they are read."""

from __future__ import annotations

import dataclasses
import io
import os
from collections.abc import Mapping
from typing import Any

import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.preprocessing import get_action_dim, get_obs_shape

from sb3_pg.archives import UnreadableError, read_file, read_tensors, said_of
from sb3_pg.data.batch import Credit, Edit, EpisodeBatch
from sb3_pg.estimators import EpisodeIndex
from sb3_pg.files import path_for_saving, whole_file
from sb3_pg.policies.divergence import frozen_copy
from sb3_pg.update.history import BatchHistory, PastBatch

Shape = tuple[int | None, ...]

#: What the file says of itself.
FORMAT, VERSION = "sb3_pg batch history", 1
#: What a pickle begins with, and what to give instead.
PICKLE, ADVICE = b"\x80", "give a file that save_replay_buffer of OffPolicyISPG wrote"
#: Kinds of numbers.
NUMBERS, FLOATS, INTEGERS, FLAGS = "numbers", "floating-point numbers", "integers", "truth values"
KINDS = {th.bool: FLAGS, th.int64: INTEGERS, th.int32: INTEGERS}
EDITS = ("advantage_edit", "return_edit", "value_edit")
#: Fields that may be missing.
OPTIONAL = {"last_observations", "is_followed", *EDITS}


def save_history(path: str | os.PathLike[str] | io.BufferedIOBase, history: BatchHistory) -> None:
    """Write it where SB3 writes replay buffers, from the CPU; a file by that name appears whole or not at all.

    Of the policies it holds the ``state_dict``: whatever else they are, the model has that goes on with it.
    """
    batches = [_plain(vars(one) | {"policy": dict(one.policy.state_dict())}) for one in history]
    content = {"format": FORMAT, "version": VERSION, "next_number": history.next_number, "batches": batches}
    if isinstance(path, io.BufferedIOBase):
        th.save(content, path)  # type: ignore[arg-type]  # it writes, and that is all that is asked of it
        return
    with whole_file(path_for_saving(path, "pkl")) as unfinished, unfinished.open("wb") as file:
        th.save(content, file)


def load_history(
    path: str | os.PathLike[str] | io.BufferedIOBase, policy: ActorCriticPolicy, size: int, verbose: int = 0
) -> BatchHistory:
    """Read what :func:`save_history` wrote, onto the device of the policy that goes on with it.

    :param size: how many batches to keep of it
    :raises ValueError: for a file that is damaged or holds something else, or batches of another network
    """
    content, name = read_file(path, "pkl", verbose)
    with said_of(name):
        number, batches = _content(content)
        # Newest first: if there are too many, the oldest go
        loaded = [_past_batch(f"batch {place}", one, policy) for place, one in enumerate(batches[:size])]
        if any(one.number >= number for one in loaded) or len({one.number for one in loaded}) < len(loaded):
            raise UnreadableError("has batches that do not have a number each, below next_number")
    return BatchHistory.of(size, loaded, number)


def _content(content: bytes) -> tuple[int, list[Any]]:
    """The number of the batch that comes next, and those that were kept."""
    if content.startswith(PICKLE):
        raise UnreadableError(
            f"is a pickle, as earlier versions wrote, which runs whatever code is in it when it is read: {ADVICE}"
        )
    nest = read_tensors(content)
    if not isinstance(nest, dict) or nest.get("format") != FORMAT:
        raise UnreadableError(f"holds a {type(nest).__name__}: {ADVICE}")
    if nest.get("version") != VERSION:
        raise UnreadableError(f"was written by another version of this package: {ADVICE}")
    number, batches = nest.get("next_number"), nest.get("batches")
    if type(number) is not int or not isinstance(batches, list):
        raise UnreadableError(f"has no next_number or no batches: {ADVICE}")
    return number, batches


def _plain(value: Any) -> Any:
    """A nest of tensors on the CPU, dictionaries, numbers and None."""
    if isinstance(value, th.Tensor):
        return value.detach().cpu().contiguous()
    if dataclasses.is_dataclass(value):
        value = vars(value)
    if isinstance(value, Mapping):
        return {key: _plain(one) for key, one in value.items()}
    return value


def _past_batch(where: str, nest: object, policy: ActorCriticPolicy) -> PastBatch:
    fields = _fields(PastBatch, where, nest)
    state = fields["policy"]
    if not isinstance(state, dict) or _shapes(state) != _shapes(policy.state_dict()):
        raise UnreadableError("holds batches of another network: give the file that was saved with this model")
    if type(fields["number"]) is not int:
        raise ValueError(f"the number of {where} must be an integer, got {fields['number']!r}")
    batch = _batch(where, fields["batch"], policy)
    credit = _fields(Credit, f"credit of {where}", fields["credit"])
    log_probs = fields["log_probs"]
    if not isinstance(log_probs, dict) or not all(type(number) is int for number in log_probs):
        raise ValueError(f"log_probs of {where} must be a dictionary by the numbers of batches")
    for name, value in [*credit.items(), *log_probs.items()]:
        _check_tensor(f"{name} of {where}", value, (batch.n_rows,), FLOATS)
    past = frozen_copy(policy)
    past.load_state_dict(state)
    device = policy.device
    moved = _moved(batch, device), Credit(**_moved(credit, device)), past, _moved(log_probs, device)
    return PastBatch(fields["number"], *moved)


def _batch(where: str, nest: object, policy: ActorCriticPolicy) -> EpisodeBatch:
    # Files of 0.1 know of no memory
    fields = _fields(EpisodeBatch, where, {"memory": {}} | nest if isinstance(nest, dict) else nest)
    index = _fields(EpisodeIndex, f"episodes of {where}", fields["episodes"])
    for name, value in index.items():
        _check_tensor(f"{name} of {where}", value, (None,), INTEGERS)
    if int(index["lengths"].clamp(min=0).double().sum()) != len(index["episode"]):
        raise ValueError(f"lengths of {where} must add up to {len(index['episode'])} rows")
    fields["episodes"] = EpisodeIndex(**index)
    rows, episodes = (fields["episodes"].n_rows,), (fields["episodes"].n_episodes,)
    for name, (leading, shape, kind) in _layout(policy, rows, episodes).items():
        if fields[name] is not None or name not in OPTIONAL:
            _check_tensors(f"{name} of {where}", fields[name], leading, shape, kind)
    for name in EDITS:
        if fields[name] is not None:
            edit = _fields(Edit, f"{name} of {where}", fields[name])
            _check_tensors(f"{name} of {where}", edit, rows, dict.fromkeys(edit, ()), FLOATS)
            fields[name] = Edit(**edit)
    for field, leading in {"extras": rows, "memory": episodes}.items():
        if not isinstance(fields[field], dict):
            raise ValueError(f"{field} of {where} must be a dictionary of tensors")
        for name, value in fields[field].items():
            trailing = (None,) * (value.ndim - 1) if isinstance(value, th.Tensor) else ()
            _check_tensor(f"{name!r} in {field} of {where}", value, (*leading, *trailing))
    return EpisodeBatch(**fields)


def _layout(policy: ActorCriticPolicy, rows: Shape, episodes: Shape) -> dict[str, tuple[Shape, Any, str]]:
    """What the first size, the others and the numbers of each tensor of a batch are."""
    action = () if isinstance(policy.action_space, spaces.Discrete) else (get_action_dim(policy.action_space),)
    observed: Any = get_obs_shape(policy.observation_space)
    return {
        "observations": (rows, observed, NUMBERS),
        "last_observations": (episodes, observed, NUMBERS),
        "actions": (rows, action, NUMBERS),
        "env": (episodes, (), INTEGERS),
        "last_values": (episodes, (), FLOATS),
        "carried": (rows, (), FLAGS),
        **{name: (rows, (), FLOATS) for name in ("rewards", "behaviour_log_prob", "values")},
        **{name: (episodes, (), FLAGS) for name in ("terminated", "truncated", "is_followed")},
    }


def _fields(cls: type[Any], where: str, nest: object) -> dict[str, Any]:
    """The fields of a dataclass, and no others."""
    names = {field.name for field in dataclasses.fields(cls)}
    if not isinstance(nest, dict):
        raise ValueError(f"{where} must be a dictionary with {', '.join(sorted(names))}, got a {type(nest).__name__}")
    if wrong := sorted(map(str, names ^ nest.keys())):
        raise ValueError(f"{where} lacks, or has beyond what it should, {', '.join(wrong)}")
    return dict(nest)


def _check_tensors(where: str, value: object, leading: Shape, shape: Any, kind: str) -> None:
    """Refuse anything but a tensor of that shape, or where the shape is a dictionary, a dictionary of such."""
    if not isinstance(shape, dict):
        _check_tensor(where, value, (*leading, *shape), kind)
        return
    if not isinstance(value, dict) or value.keys() != shape.keys():
        raise ValueError(f"{where} must be a dictionary with {', '.join(map(repr, shape))}")
    for key, one in value.items():
        _check_tensor(f"{key!r} in {where}", one, (*leading, *shape[key]), kind)


def _check_tensor(where: str, value: object, shape: Shape, kind: str = NUMBERS) -> None:
    """Refuse anything but a tensor of that shape, where None is any size, and of that kind of numbers."""
    if not isinstance(value, th.Tensor):
        raise ValueError(f"{where} must be a tensor, got a {type(value).__name__}")
    got = tuple(value.shape)
    if len(got) != len(shape) or any(wanted not in (size, None) for size, wanted in zip(got, shape, strict=True)):
        raise ValueError(f"{where} must have the shape {shape}, got {got}")
    if KINDS.get(value.dtype, FLOATS if value.dtype.is_floating_point else NUMBERS) != kind and kind != NUMBERS:
        raise ValueError(f"{where} must hold {kind}, got {value.dtype}")


def _shapes(state: dict[str, Any]) -> dict[str, Any]:
    return {name: getattr(value, "shape", None) for name, value in state.items()}


def _moved(value: Any, device: th.device) -> Any:
    """A nest of tensors on another device."""
    if isinstance(value, th.Tensor):
        return value.to(device)
    if isinstance(value, dict):
        return {key: _moved(one, device) for key, one in value.items()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return type(value)(**_moved(vars(value), device))
    return value
