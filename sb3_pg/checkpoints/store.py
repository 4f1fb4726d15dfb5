"""The files of checkpoints: whole, numbered, with a check sum, the last few kept."""

from __future__ import annotations

import hashlib
import json
import re
import warnings
import zipfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from sb3_pg.files import whole_file

#: Of what this version writes; it reads no other.
FORMAT = 1
FACTS = "checkpoint.json"
_NAME = re.compile(r"checkpoint_(\d{8,})\.zip")


@dataclass(frozen=True)
class Facts:
    """What can be read of a checkpoint without running anything.

    :param run: which run it is of
    :param algorithm: the name of the model's class
    :param steps: ``num_timesteps``
    :param environments: name -> class of each environment and wrapper, as the run has them
    :param restarts: why episodes under way begin anew when the run is resumed; empty: they do not
    """

    run: str
    algorithm: str
    steps: int
    environments: dict[str, str]
    restarts: str = ""


@dataclass(frozen=True)
class Checkpoint:
    """A run at the beginning of a rollout.

    :param parts: name -> pickled part
    """

    facts: Facts
    parts: Mapping[str, bytes]


class DamagedCheckpointError(ValueError):
    """A file that is not what was once written."""


def checkpoints_in(folder: Path) -> list[Path]:
    """The files of checkpoints in a folder, the oldest first."""
    if not folder.is_dir():
        return []
    numbers = {int(found[1]): one for one in folder.iterdir() if (found := _NAME.fullmatch(one.name))}
    return [numbers[number] for number in sorted(numbers)]


def is_checkpoint(path: Path) -> bool:
    """Whether a file has the name of one."""
    return path.is_file() and _NAME.fullmatch(path.name) is not None


def write(folder: Path, checkpoint: Checkpoint, keep: int) -> Path:
    """Add a checkpoint to a folder; then remove all but the last ``keep``."""
    folder.mkdir(parents=True, exist_ok=True)
    there = checkpoints_in(folder)
    number = 1 + (int(there[-1].stem.split("_")[1]) if there else 0)
    path = folder / f"checkpoint_{number:08d}.zip"
    sums = {name: hashlib.sha256(data).hexdigest() for name, data in checkpoint.parts.items()}
    facts = {"format": FORMAT, "sha256": sums, **asdict(checkpoint.facts)}
    with whole_file(path) as unfinished, zipfile.ZipFile(unfinished, "w") as packed:
        packed.writestr(FACTS, json.dumps(facts, indent=1))
        for name, data in checkpoint.parts.items():
            packed.writestr(name, data)
    for old in checkpoints_in(folder)[:-keep]:
        old.unlink(missing_ok=True)
    return path


def read(path: Path) -> Checkpoint:
    """Read one, and hold it against its check sums.

    :raises DamagedCheckpointError: if it is not whole
    :raises ValueError: if another version of this package wrote it
    """
    try:
        with zipfile.ZipFile(path) as packed:
            told: dict[str, Any] = json.loads(packed.read(FACTS))
            version = told.pop("format")
            if version == FORMAT:
                sums = told.pop("sha256")
                checkpoint = Checkpoint(Facts(**told), {name: packed.read(name) for name in sums})
    except Exception as error:  # a damaged archive finds them all: RuntimeError, zlib.error, OSError, KeyError, ...
        raise DamagedCheckpointError(f"{path} cannot be read: {type(error).__name__}: {error}") from error
    if version != FORMAT:
        raise ValueError(
            f"{path} has format {version}, and this version of sb3_pg reads {FORMAT}: go on with the version that "
            "wrote it"
        )
    if any(hashlib.sha256(data).hexdigest() != sums[name] for name, data in checkpoint.parts.items()):
        raise DamagedCheckpointError(f"{path} is not what was written: its check sum is another")
    return checkpoint


def newest(folder: Path) -> Checkpoint | None:
    """The newest checkpoint that is whole; None if there is none. Of a damaged one, a warning tells."""
    for path in reversed(checkpoints_in(folder)):
        try:
            return read(path)
        except DamagedCheckpointError as error:
            warnings.warn(f"{error}. The one before it is taken.", UserWarning, stacklevel=3)
    return None
