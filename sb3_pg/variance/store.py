"""Pieces of a measurement on disk, so that one that was interrupted goes on where it was."""

from __future__ import annotations

import hashlib
import json
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch as th

from sb3_pg.files import whole_file

Arrays = dict[str, np.ndarray]
#: Told of the stage, how many of its chunks are done, and how many there are.
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Stage:
    """The chunks of a stage, all there: arrays by their name, one row a batch."""

    paths: tuple[Path, ...]
    n_rows: int

    def column(self, name: str) -> th.Tensor:
        """One array of all chunks, ``(n_rows, ...)``; only this one is read."""
        parts = [_read(path, name) for path in self.paths]
        return th.as_tensor(np.concatenate(parts)[: self.n_rows])

    def row(self, number: int) -> Arrays:
        """All arrays of a row in the first chunk."""
        with np.load(self.paths[0], allow_pickle=False) as file:
            return {name: file[name][number] for name in file.files}


@dataclass(frozen=True)
class Store:
    """A folder of chunks, each named for what was asked.

    :param base: what all stages depend on
    """

    folder: Path
    base: Mapping[str, Any]
    progress: Progress | None = None

    def stage(
        self, name: str, asked: Mapping[str, Any], n_rows: int, chunk_rows: int, make: Callable[[int], Arrays]
    ) -> Stage:
        """Make the chunks that are not there yet; each is there whole or not at all.

        :param asked: what this stage depends on beside ``base``; not on ``n_rows``, so that it can be continued
        :param make: from the number of a chunk to its arrays, ``(chunk_rows, ...)`` each
        """
        here = self.folder / f"{name}-{fingerprint({**self.base, **asked})[:12]}"
        here.mkdir(parents=True, exist_ok=True)
        paths = [here / f"{number:05d}.npz" for number in range(-(-n_rows // chunk_rows))]
        for number, path in enumerate(paths):
            if not path.is_file():
                write_arrays(path, make(number))
            if self.progress is not None:
                self.progress(name, number + 1, len(paths))
        return Stage(tuple(paths), n_rows)


def write_arrays(path: Path, arrays: Arrays) -> None:
    """Write arrays so that a file by that name is there whole or not at all."""
    with whole_file(path) as unfinished:
        np.savez(unfinished, **arrays)  # type: ignore[arg-type]  # NumPy says that a name could be allow_pickle


def _read(path: Path, name: str) -> np.ndarray:
    try:
        # NumPy leaves a file open that it cannot read
        with path.open("rb") as opened, np.load(opened, allow_pickle=False) as file:
            column: np.ndarray = file[name]
            return column
    except (zipfile.BadZipFile, ValueError, EOFError, KeyError) as error:
        raise ValueError(f"{path} is damaged: delete it, and it is made again") from error


def fingerprint(asked: Any) -> str:
    """A name for what was asked: the same for equal dictionaries, lists, texts and numbers."""
    return hashlib.sha256(json.dumps(asked, sort_keys=True, default=str).encode()).hexdigest()


def fingerprint_of_tensors(tensors: Mapping[str, Any]) -> str:
    """The same for named tensors and arrays, by their bytes."""
    digest = hashlib.sha256()
    for name, value in tensors.items():
        array = value.detach().cpu().numpy() if isinstance(value, th.Tensor) else np.asarray(value)
        digest.update(f"{name} {array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()
