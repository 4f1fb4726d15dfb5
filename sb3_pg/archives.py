"""Archives of tensors and plain data, as PyTorch writes them: read only if they are whole, and without running them."""

from __future__ import annotations

import io
import os
import zipfile
from collections import OrderedDict, deque
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch as th
from stable_baselines3.common.save_util import open_path
from torch import nn

#: Values in a nest that was read. One of a few bytes can say that it has many more, by holding a part of it many times.
MOST_PARTS = 1_000_000
#: Bytes of all tensors against those of the file: networks share layers, which a file holds once.
MOST_SHARING = 16
#: Names of the attributes of a ``state_dict``.
ATTRIBUTES = {"_metadata"}


def read_file(path: str | os.PathLike[str] | io.BufferedIOBase, suffix: str, verbose: int = 0) -> tuple[bytes, str]:
    """The content of a file, found as SB3 finds it, and a name for it in messages."""
    if isinstance(path, io.BufferedIOBase):
        file = open_path(path, "r")
        if file.seekable():
            file.seek(0)  # an archive is found wherever the file is, such as at its end after it was written
        return file.read(), str(getattr(path, "name", "The file"))
    with open_path(Path(path), "r", verbose, suffix) as file:
        return file.read(), str(path)


class UnreadableError(ValueError):
    """What is wrong with a file: words that follow its name."""


@contextmanager
def said_of(name: str, otherwise: str = "is damaged, or not what it should be") -> Iterator[None]:
    """A ValueError that names a file, whatever its content makes those raise who read it."""
    try:
        yield
    except UnreadableError as error:
        raise ValueError(f"{name} {error}") from error
    except Exception as error:  # a damaged file finds them all: KeyError, RuntimeError, OverflowError, MemoryError, ...
        said = str(error) if type(error) is ValueError else f"{type(error).__name__}: {error}"
        raise ValueError(f"{name} {otherwise}: {said}") from error


def whole_archive(content: bytes, may_be_packed: bool = False) -> zipfile.ZipFile:
    """An archive whose check sums are right.

    :param may_be_packed: whether it may become larger than the file that it is in
    :raises UnreadableError: if it is damaged, or becomes larger
    """
    try:
        archive = zipfile.ZipFile(io.BytesIO(content))
        size = sum(entry.file_size for entry in archive.infolist())
        if size > len(content) and not may_be_packed:
            raise UnreadableError(f"becomes {size} bytes from {len(content)}, and what save writes is not compressed")
        broken = archive.testzip()
    except (zipfile.BadZipFile, EOFError) as error:
        raise UnreadableError(f"is no archive, or cut off or damaged, it wasn't a zip-file: {error}") from error
    if broken is not None:
        raise UnreadableError(f"is damaged: {broken} in it has another check sum")
    return archive


def read_tensors(content: bytes, device: th.device | str = "cpu") -> Any:
    """What ``torch.save`` wrote, where that is tensors and plain data.

    :raises UnreadableError: if it is damaged, anything else, or asks for much more memory than the file has bytes
    """
    with whole_archive(content):
        pass
    nest = th.load(io.BytesIO(content), map_location=device, weights_only=True)
    size = 0
    for part in every_part(nest):
        if isinstance(part, th.Tensor):
            size += _size_of(part, len(content))
        elif isinstance(part, OrderedDict) and not vars(part).keys() <= ATTRIBUTES:
            raise UnreadableError(f"holds a dictionary with {', '.join(sorted(vars(part).keys() - ATTRIBUTES))}")
        elif not isinstance(part, (dict, list, tuple, set, str, bytes, int, float, type(None))):
            raise UnreadableError(f"holds a {type(part).__name__}, which is neither tensor nor plain data")
    if size > MOST_SHARING * len(content):
        raise UnreadableError(f"holds tensors of {size} bytes in {len(content)}")
    return nest


def every_part(nest: object) -> Iterator[object]:
    """The values of a nest of containers, these included; one that is in several of them comes as many times.

    :raises UnreadableError: if there are very many
    """
    waiting, n_parts = [nest], 0
    while waiting:
        part = waiting.pop()
        yield part
        n_parts += 1
        if isinstance(part, Mapping):
            waiting.extend(part)
            waiting.extend(part.values())
        elif isinstance(part, (list, tuple, set, frozenset, deque)):
            waiting.extend(part)
        if n_parts + len(waiting) > MOST_PARTS:
            raise UnreadableError(f"has more than {MOST_PARTS} parts")


def _size_of(tensor: th.Tensor, most: int) -> int:
    """Bytes of a plain tensor, of which no more may be said than there is."""
    if type(tensor) not in (th.Tensor, nn.Parameter) or tensor.layout != th.strided or tensor.is_meta:
        raise UnreadableError(f"holds a tensor that is none of plain numbers: {type(tensor).__name__}, {tensor.layout}")
    if tensor.is_quantized:
        raise UnreadableError("holds a quantized tensor")
    size = tensor.numel() * tensor.element_size()
    if max(size, tensor.untyped_storage().nbytes()) > most:
        raise UnreadableError(f"holds a tensor of {size} bytes, more than the file has")
    return size
