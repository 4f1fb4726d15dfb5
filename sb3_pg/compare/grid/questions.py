"""What a cell is asked, and what its folder says that it was asked: the same, or it is not this grid's."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from huggingface_sb3 import EnvironmentName

from sb3_pg.compare.grid.facts import plain

CELL_FILE = "cell.json"


@dataclass(frozen=True)
class Cell:
    """What is asked: two cells that are equal have equal answers.

    :param label: the contender's
    :param algorithm: see :class:`~sb3_pg.compare.grid.contenders.Contender`
    :param env_id: as it is registered
    :param seed: of the run; the episodes of evaluations are the same for all
    :param settings: hyperparameters in the Zoo's format
    :param budget: environment steps to train for
    :param eval_every: steps between two evaluations
    :param n_eval_episodes: episodes of an evaluation
    :param deterministic: evaluate the policy's mode
    :param device: PyTorch's
    """

    label: str
    algorithm: str
    env_id: str
    seed: int
    settings: dict[str, Any]
    budget: int
    eval_every: int
    n_eval_episodes: int = 10
    deterministic: bool = True
    device: str = "cpu"

    @property
    def asked(self) -> dict[str, Any]:
        """The question as ``cell.json`` has it."""
        asked: dict[str, Any] = json.loads(json.dumps(plain(asdict(self))))
        return asked


@dataclass(frozen=True)
class Job:
    """A cell, and what whoever trains it has to know besides.

    :param place: its folder
    :param module: see :class:`~sb3_pg.compare.grid.configs.Task`
    :param remarks: what is to be said of its settings
    :param command: the command of the grid
    :param commit: of the grid's working directory
    :param cwd: where modules of the user's are
    :param parent: the process whose child a worker is, which stops when it dies; 0: nobody's
    :param retry_failed: train it again if it has failed
    """

    cell: Cell
    place: Path
    module: str = ""
    remarks: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    commit: str = ""
    cwd: str = ""
    parent: int = 0
    retry_failed: bool = False


@dataclass(frozen=True)
class CellResult:
    """What became of a cell.

    :param folder: where it lies
    :param error: the traceback if it failed, else empty
    :param is_new: whether it was trained now
    """

    label: str
    env_id: str
    seed: int
    folder: Path
    error: str = ""
    is_new: bool = True


def place_of(out: Path, contender_folder: str, env_id: str, seed: int) -> Path:
    """Where a cell lies: under the name that the Zoo gives its run number ``seed + 1``."""
    return out / contender_folder / f"{EnvironmentName(env_id)}_{seed + 1}"


def known(job: Job) -> CellResult | None:
    """What became of a cell, as its folder says; None if it has not been trained.

    :raises ValueError: if something else lies in its place
    """
    if not job.place.exists():
        return None
    there = _read(job.place / CELL_FILE)
    if there is None:
        raise ValueError(f"{job.place} is there, and is no cell of a grid: give another --out, or remove it")
    if differences := "; ".join(_differences(there, job.cell.asked)):
        raise ValueError(f"{job.place} was asked for something else ({differences}): give another --out, or remove it")
    return result(job, str(there.get("error", "")), is_new=False)


def finished(job: Job) -> CellResult | None:
    """As :func:`known`, but None too for a cell that is to be trained again since it has failed."""
    found = known(job)
    return None if found is not None and found.error and job.retry_failed else found


def result(job: Job, error: str, is_new: bool) -> CellResult:
    """What became of a job's cell."""
    return CellResult(job.cell.label, job.cell.env_id, job.cell.seed, job.place, error, is_new)


def _read(path: Path) -> dict[str, Any] | None:
    try:
        content = json.loads(path.read_text())
    except (OSError, ValueError):
        return None
    return content if isinstance(content, dict) else None


def _differences(there: dict[str, Any], asked: dict[str, Any]) -> Iterator[str]:
    """Key by key, of the hyperparameters too; what is there besides is no part of the question."""
    for key, value in asked.items():
        if key == "settings":
            other = there.get(key) or {}
            for name in sorted(other.keys() | value.keys()):
                yield from _difference(name, other.get(name, "not given"), value.get(name, "not given"))
        else:
            yield from _difference(key, there.get(key), value)


def _difference(key: str, there: Any, asked: Any) -> Iterator[str]:
    if there != asked:
        yield f"{key} is {there} there, {asked} is asked now"
