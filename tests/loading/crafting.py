"""Files as somebody would write them who wants to have code run, and traps that say whether it did."""

from __future__ import annotations

import base64
import copyreg
import io
import json
import os
import pickle
import struct
import zipfile
from collections import deque
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch as th

#: A number of pickle's registry of extensions, under which a function is registered.
EXTENSION = 240


class Call:
    """Pickled as a call."""

    def __init__(self, function: Callable[..., Any], *arguments: Any):
        self.how = function, arguments

    def __reduce__(self) -> Any:
        return self.how


class Trap:
    """Makes a folder when it is given a state, which is its path."""

    def __init__(self, path: str):
        self.path = path

    def __getstate__(self) -> str:
        return self.path

    def __setstate__(self, path: str) -> None:
        os.mkdir(path)


def text(value: str) -> bytes:
    """A text, as a pickle has it."""
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def named(module: str, name: str) -> bytes:
    """A name, as a pickle of protocol 4 has it."""
    return text(module) + text(name) + b"\x93"


def pickles(path: Path) -> dict[str, bytes]:
    """Pickles that make the folder ``path`` when they are read by ``pickle``."""
    made, line = str(path), str(path).encode()
    copyreg.add_extension("os", "mkdir", EXTENSION)  # a second time is as good as the first
    objects = np.empty(1, dtype=object)
    objects[0] = Call(os.mkdir, made)
    return {
        "REDUCE": pickle.dumps(Call(os.system, f"mkdir {made}")),
        "protocol 0": pickle.dumps(Call(os.mkdir, made), 0),
        "protocol 2": pickle.dumps(Call(os.mkdir, made), 2),
        "inside of containers": pickle.dumps({"a": [1, (2, {"b": Call(os.mkdir, made)})]}),
        "array of objects": pickle.dumps(objects),
        "an object's state": pickle.dumps(Trap(made)),
        "eval": pickle.dumps(Call(eval, f"__import__('os').mkdir({made!r})")),
        "exec": pickle.dumps(Call(exec, f"import os; os.mkdir({made!r})")),
        "STACK_GLOBAL": named("os", "mkdir") + text(made) + b"\x85R.",
        "dotted name": b"\x80\x04" + named("stable_baselines3.common.utils", "os.mkdir") + text(made) + b"\x85R.",
        "INST": b"(S'" + line + b"'\nios\nmkdir\n.",
        "OBJ": b"(cos\nmkdir\nS'" + line + b"'\no.",
        "NEWOBJ": b"\x80\x02" + b"ctests.loading.crafting\nMaker\n" + text(made) + b"\x85\x81.",
        "NEWOBJ_EX": b"\x80\x04" + named("tests.loading.crafting", "Maker") + text(made) + b"\x85}\x92.",
        "BUILD": b"ctests.loading.crafting\nTrap\n)\x81" + text(made) + b"b.",
        "EXT1": b"\x80\x02\x82" + bytes([EXTENSION]) + text(made) + b"\x85R.",
        "EXT2": b"\x80\x02\x83" + struct.pack("<H", EXTENSION) + text(made) + b"\x85R.",
        "EXT4": b"\x80\x02\x84" + struct.pack("<i", EXTENSION) + text(made) + b"\x85R.",
        "and then a number": pickle.dumps(Call(os.mkdir, made))[:-1] + b"0K\x01.",
        "a deque": pickle.dumps(Call(deque, Call(os.mkdir, made))),
    }


class Maker:
    """Makes a folder when one of it is made."""

    def __new__(cls, path: str, **_: Any) -> Maker:
        os.mkdir(path)
        return super().__new__(cls)


def rewritten(content: bytes, changes: Mapping[str, bytes | None], compression: int = zipfile.ZIP_STORED) -> bytes:
    """An archive with other entries; None takes one away."""
    memory = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(content)) as old, zipfile.ZipFile(memory, "w", compression) as new:
        entries: dict[str, bytes | None] = {name: old.read(name) for name in old.namelist()}
        entries |= changes
        for name, entry in entries.items():
            if entry is not None:
                new.writestr(name, entry)
    return memory.getvalue()


def with_data(content: bytes, **entries: Any) -> bytes:
    """A saved model with other entries."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        data = json.loads(archive.read("data"))
    return rewritten(content, {"data": json.dumps(data | entries).encode()})


def with_pickle(content: bytes, entry: str, pickled: bytes) -> bytes:
    """A saved model with a pickle as one of its entries."""
    return with_data(
        content, **{entry: {":type:": "<class 'dict'>", ":serialized:": base64.b64encode(pickled).decode()}}
    )


def saved_by_torch(value: Any, **kwargs: Any) -> bytes:
    """What ``torch.save`` writes."""
    memory = io.BytesIO()
    th.save(value, memory, **kwargs)
    return memory.getvalue()
