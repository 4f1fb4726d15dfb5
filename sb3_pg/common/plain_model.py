"""The ``data`` of a saved model, as plain data: what of it is refused, and how that is said."""

from __future__ import annotations

import base64
import inspect
import json
import zipfile
from collections.abc import Collection, Mapping
from typing import Any

from stable_baselines3.common.base_class import BaseAlgorithm

from sb3_pg.archives import UnreadableError, every_part, read_tensors
from sb3_pg.common.unpickling import Known, RefusedError, load_plain

#: Under this key SB3 keeps the pickle of an entry that is no JSON.
PICKLED = ":serialized:"
#: What ``_setup_model`` makes of other entries.
DERIVED = ("lr_schedule", "value_lr_schedule")


def plain_entries(
    archive: zipfile.ZipFile, algorithm: type[BaseAlgorithm], given: Mapping[str, Any], known: Known
) -> dict[str, Any]:
    """The entries of a saved model that SB3 would unpickle, made without running anything; the tensors are looked at.

    :param algorithm: whose model it is
    :param given: values in the place of entries, which are then not read
    :param known: what may be in it beside numbers, texts and containers
    :raises UnreadableError: for whatever is not plain data
    """
    found: dict[str, Any] = {}
    entries = json.loads(archive.read("data"))
    if not isinstance(entries, dict):
        raise UnreadableError("has no entries")
    _check_names(entries, algorithm)
    for name, entry in entries.items():
        if name in given or not (isinstance(entry, dict) and PICKLED in entry):
            continue
        if name in DERIVED:
            found[name] = None
            continue
        found[name] = plain_entry(name, entry, known)
        for _ in every_part(found[name]):
            pass  # it can be gone through
    for name in archive.namelist():
        if name.endswith(".pth"):
            tensors = read_tensors(archive.read(name))
            if name in ("pytorch_variables.pth", "tensors.pth") and tensors:
                raise UnreadableError(f"has {name}, which a model of {algorithm.__name__} does not have")
    return found


def plain_entry(name: str, entry: Any, known: Known) -> Any:
    """An entry of a saved model, made without running anything.

    :raises UnreadableError: for what is not plain data
    """
    if not (isinstance(entry, dict) and PICKLED in entry):
        return entry
    try:
        return load_plain(base64.b64decode(entry[PICKLED]), known)
    except RefusedError as error:
        raise UnreadableError(_refusal(name, str(error))) from error


def _check_names(names: Collection[str], algorithm: type[BaseAlgorithm]) -> None:
    """Refuse what would take a method's place, or is made anew: of an id SB3 makes an environment, importing it."""
    made_anew = set(algorithm.__new__(algorithm)._excluded_save_params()) - set(DERIVED)  # which earlier versions wrote
    for name in names:
        member = inspect.getattr_static(algorithm, name, None)
        is_method = callable(getattr(algorithm, name, None)) or isinstance(member, property)
        if name in made_anew or is_method or name.startswith("__"):
            raise UnreadableError(f"has an entry {name!r}, which nothing that is loaded as plain data has")


def _refusal(entry: str, what: str) -> str:
    return (
        f"is more than plain data, and was not loaded: {entry!r} in it holds {what}. If you trust whoever wrote it, "
        "load(..., trust=True) runs what is in it; trust=[...] takes classes and functions of yours that may be named "
        f"in it; custom_objects={{{entry!r}: ...}} takes a value in the place of this one"
    )
