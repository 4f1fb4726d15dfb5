"""Folders that are there whole or not at all, and locks that a process loses when it dies.

A cell's place is ``<out>/<contender>/<environment>_<seed + 1>``. Whoever trains it holds ``.<place>.cell-lock`` beside
it, works in ``.<place>.cell-<something of its own>`` and gives that the place's name in one step. So if nobody holds a
place's lock, dead processes have left what lies beside it. The locks are ``flock``'s: a shared file system has to
support it.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sb3_pg.files import is_name_of

LOCK = "lock"
#: Names of ours beside a place.
HIDDEN = re.compile(r"\.(?P<place>.+_\d+)\.cell-[\w-]+")


def hidden(place: Path, suffix: str) -> Path:
    """A name beside a place that the Zoo, and who looks for runs, does not take for one."""
    return place.with_name(f".{place.name}.cell-{suffix}")


def place_beside(path: Path) -> Path | None:
    """The place that a hidden name belongs to; None for one that is not ours."""
    match = HIDDEN.fullmatch(path.name)
    return path.with_name(match["place"]) if match else None


@contextmanager
def locked(place: Path, wait: bool = True) -> Iterator[bool]:
    """Hold a place's lock.

    :param wait: wait for another process that has it; if not, the context's value says whether it is held
    """
    path = hidden(place, LOCK)
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = _acquire(path, wait)
    try:
        yield descriptor is not None
    finally:
        if descriptor is not None:
            path.unlink(missing_ok=True)
            os.close(descriptor)


def _acquire(path: Path, wait: bool) -> int | None:
    while True:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            os.close(descriptor)
            return None
        except BaseException:
            os.close(descriptor)
            raise
        # Whoever had it before has removed it by now: then this lock is one on a file that nobody else will see
        if is_name_of(path, descriptor):
            return descriptor
        os.close(descriptor)


@contextmanager
def whole_folder(place: Path) -> Iterator[Path]:
    """A folder to work in that becomes the place's when the context ends, and disappears if it ends with an exception.

    The place's lock must be held. What was in the place is replaced.
    """
    remove_leftovers(place)
    folder = Path(tempfile.mkdtemp(prefix=hidden(place, "").name, dir=place.parent))
    try:
        yield folder
        folder.chmod(place.parent.stat().st_mode & 0o777)  # mkdtemp's are for their owner alone
        if place.exists():
            place.rename(folder.with_name(f"{folder.name}-old"))
        folder.rename(place)
    finally:
        remove_leftovers(place)


def remove_leftovers(place: Path) -> None:
    """Remove what is left of work on a place; its lock must be held."""
    for path in place.parent.glob(hidden(place, "*").name):
        if path != hidden(place, LOCK):
            shutil.rmtree(path, ignore_errors=True)


def remove_abandoned(out: Path) -> None:
    """Remove what dead processes left of work on any place of a grid, and their locks."""
    for place in {place for path in out.glob("*/.*") if (place := place_beside(path)) is not None}:
        with locked(place, wait=False) as is_mine:
            if is_mine:
                remove_leftovers(place)
