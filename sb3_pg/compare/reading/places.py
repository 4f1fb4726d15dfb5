"""Where runs lie in a tree of folders: each of them once."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

from sb3_pg.compare.reading.events import MARK
from sb3_pg.compare.reading.monitor import OF_EVALUATION, SUFFIX
from sb3_pg.compare.reading.zoo import CELL, parameter_folder

EVALUATIONS = "evaluations.npz"
LOGS = ("progress.csv", "progress.json")
#: Names of folders in which scripts keep parts of one run.
PARTS = re.compile(
    r"(train(ing)?|evals?|evaluations?|eval_(logs?|results?)|monitors?|logs?|results?|csv)", re.IGNORECASE
)
#: And the models of it.
MODELS = re.compile(r"(best_?models?|models?|checkpoints?)", re.IGNORECASE)


@dataclass(frozen=True)
class Place:
    """A folder with a run in it.

    :param given: the folder below which it was found, or itself
    :param label: what the user calls what is there; empty if he does not
    :param parts: folders below that belong to it
    """

    folder: Path
    given: Path
    label: str = ""
    parts: tuple[Path, ...] = ()

    def files(self, *patterns: str) -> list[Path]:
        """Files of the run, those of the first folder that has any."""
        for folder in (self.folder, *self.parts):
            if found := sorted(path for pattern in patterns for path in folder.glob(pattern) if path.is_file()):
                return found
        return []

    @property
    def monitors(self) -> list[Path]:
        """Monitor files of the training environments."""
        folders = [self.folder, *(part for part in self.parts if not OF_EVALUATION.match(part.name))]
        for folder in folders:
            if found := [path for path in _monitors(folder) if not OF_EVALUATION.match(path.name)]:
                return found
        return []

    @property
    def models(self) -> list[Path]:
        """Saved models, or what may be some."""
        folders = (self.folder, *self.parts, *(path for path in subfolders(self.folder) if MODELS.fullmatch(path.name)))
        return [path for folder in folders for path in folder.glob("[!.]*.zip") if path.is_file()]

    @property
    def has_only_events(self) -> bool:
        """Whether nothing but a TensorBoard log is known of it."""
        folders = (self.folder, *self.parts)
        return not (parameter_folder(self.folder) or any(_has_more_than_events(folder) for folder in folders))


@dataclass
class Walk:
    """What has been seen of a tree.

    :param hidden: folders that hold runs under names that begin with a dot: cells that are not finished
    :param closed: folders that may not be read
    """

    hidden: list[Path] = field(default_factory=list)
    closed: list[Path] = field(default_factory=list)
    _seen: set[Path] = field(default_factory=set)

    def places(self, folder: Path, given: Path, label: str = "") -> Iterator[Place]:
        """The runs in a folder and below that have not been seen before."""
        if folder.resolve() in self._seen:
            return
        self._seen.add(folder.resolve())
        if not _may_be_read(folder):
            self.closed.append(folder)
            return
        inside = subfolders(folder)
        self.closed += [path for path in inside if not _may_be_read(path)]
        inside = [path for path in inside if path not in self.closed]
        self.hidden += [path for path in inside if path.name.startswith(".") and _has_anything(path)]
        inside = [path for path in inside if not path.name.startswith(".")]
        if (folder / CELL).is_file() or parameter_folder(folder):
            yield Place(folder, given, label)
        else:
            parts = [path for path in inside if PARTS.fullmatch(path.name) and _has_more_than_events(path)]
            parts = [path for path in parts if path.resolve() not in self._seen]
            if parts or _has_anything(folder):
                yield Place(folder, given, label, tuple(parts))
            self._seen.update(path.resolve() for path in parts)
            inside += [path for part in parts for path in subfolders(part)]
        for path in inside:
            yield from self.places(path, given, label)


def subfolders(folder: Path) -> list[Path]:
    """The folders in a folder, links to some among them."""
    return sorted(path for path in folder.iterdir() if path.is_dir())


def _may_be_read(folder: Path) -> bool:
    return os.access(folder, os.R_OK | os.X_OK)


def event_files(folder: Path) -> list[Path]:
    """TensorBoard's files in a folder."""
    return sorted(folder.glob(f"{MARK}*"))


def _monitors(folder: Path) -> list[Path]:
    return sorted(path for path in folder.glob(f"*{SUFFIX}") if not path.name.startswith("."))


def _has_more_than_events(folder: Path) -> bool:
    names = (CELL, EVALUATIONS, *LOGS)
    return bool(_monitors(folder)) or any((folder / name).is_file() for name in names)


def _has_anything(folder: Path) -> bool:
    return _has_more_than_events(folder) or bool(event_files(folder))
