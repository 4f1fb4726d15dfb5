"""What a model that SB3 saved says of its training. Nothing of it is unpickled: that would run what is in it."""

from __future__ import annotations

import inspect
import io
import json
import pickle
import re
import zipfile
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from typing import Any

import sb3_contrib
import stable_baselines3
import torch as th
from stable_baselines3.common.base_class import BaseAlgorithm

import sb3_pg
from sb3_pg.compare.reading.description import Description
from sb3_pg.compare.reading.files import cannot_read, integer, number
from sb3_pg.compare.traits import NOT_SAID

#: Arguments of constructors that are no hyperparameters.
OTHERS = {"policy", "env", "seed", "verbose", "device", "tensorboard_log", "stats_window_size", "_init_setup_model"}
#: SB3's names of packages -> PyPI's, where those are not the same in small letters.
PACKAGES = {"PyTorch": "torch", "OpenAI Gym": "gym"}
#: ``start_time`` of a model and the second of its event file's making are this close, or a machine was very busy.
SLACK = 2.0


def read_saved_model(paths: Iterable[Path]) -> Description:
    """What the latest of some zips says that is a model: the whole of a run's settings, defaults included."""
    remarks: tuple[str, ...] = ()
    for path in sorted(paths, key=lambda path: path.stat().st_mtime, reverse=True):
        try:
            with zipfile.ZipFile(path) as archive:
                if not {"data", "policy.pth"} <= set(archive.namelist()):
                    raise ValueError("it is no model of Stable-Baselines3's")
                data = json.loads(archive.read("data"))
                network = _network(archive.read("policy.pth"))
                system = archive.read("system_info.txt").decode() if "system_info.txt" in archive.namelist() else ""
        except (OSError, ValueError, EOFError, RuntimeError, pickle.UnpicklingError, zipfile.BadZipFile) as error:
            remarks += (cannot_read(path, error),)
            continue
        if isinstance(data, dict):
            return _describe(data, network, system, remarks)
    return Description(remarks=remarks)


def _describe(data: dict[str, Any], network: dict[str, Any], system: str, remarks: tuple[str, ...]) -> Description:
    plain = {name: _plain(value) for name, value in data.items() if name in _hyperparameters()}
    if plain.get("action_noise") is None:
        plain.pop("action_noise", None)  # every model has it, whether its algorithm does or not
    settings = {name: value for name, value in plain.items() if value != NOT_SAID}
    lines = [line.removeprefix("- ").partition(": ") for line in system.splitlines()]
    versions = {PACKAGES.get(name, name.lower()): text for name, _, text in lines if name not in ("OS", "GPU Enabled")}
    # After the sign it is the system's own build
    machine = next(({"system": text.partition(" # ")[0]} for name, _, text in lines if name == "OS"), None)
    begun = integer(data.get("start_time"))
    return Description(
        seed=integer(data.get("seed")),
        budget=integer(data.get("_total_timesteps")),
        started=None if begun is None else (begun / 1e9 - SLACK, begun / 1e9 + SLACK),
        settings=settings,
        facts={
            "defaults": plain,
            "n_envs": integer(data.get("n_envs")),
            "network": network,
            "versions": versions or None,
            "machine": machine,
        },
        remarks=remarks,
    )


def _network(weights: bytes) -> dict[str, Any]:
    """Shapes of the layers' weights by module, and the number of parameters; modules that are shared count once."""
    state = th.load(io.BytesIO(weights), map_location="cpu", weights_only=True)
    own = {tensor.data_ptr(): (name, tensor) for name, tensor in reversed(state.items())}
    tensors = dict(reversed(own.values()))
    ends = ".weight"
    layers = {name.removesuffix(ends): list(tensor.shape) for name, tensor in tensors.items() if name.endswith(ends)}
    return {"layers": layers, "parameters": sum(tensor.numel() for tensor in tensors.values())}


@cache
def _hyperparameters() -> frozenset[str]:
    """The arguments of all algorithms of SB3, sb3-contrib and ours: which of them it was is not in the file."""
    found: set[str] = set()
    for package in (stable_baselines3, sb3_contrib, sb3_pg):
        for member in vars(package).values():
            if isinstance(member, type) and issubclass(member, BaseAlgorithm):
                found |= inspect.signature(member).parameters.keys()
    return frozenset(found - OTHERS)


def _plain(value: Any) -> Any:
    """A value of the ``data``; of a pickled one what SB3 wrote beside it for people to read."""
    if not (isinstance(value, dict) and ":serialized:" in value):
        return value
    beside = {key: item for key, item in value.items() if not key.startswith((":", "__"))}
    if "abc.ABCMeta" in value[":type:"] or "'type'" in value[":type:"]:
        return NOT_SAID  # a class, and its name is only in the pickle
    kind = value[":type:"].removeprefix("<class '").removesuffix("'>").rpartition(".")[2]
    if kind == "dict":
        return beside
    if kind == "FloatSchedule":  # around every schedule
        inside = str(beside.get("value_schedule", kind))
        constant = re.fullmatch(r"ConstantSchedule\(val=(.+)\)", inside)
        return number(constant[1]) if constant else _without_address(inside)
    return _without_address(f"{kind}({', '.join(f'{name}={item}' for name, item in beside.items())})")


def _without_address(text: str) -> str:
    """A ``repr`` that is the same in every process."""
    return re.sub(r" at 0x[0-9a-f]+", "", text)
