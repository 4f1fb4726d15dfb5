"""Files that are there whole or not at all, whenever a process is killed, a disk is full or the power fails."""

from __future__ import annotations

import os
import re
import secrets
import stat
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

if sys.platform != "win32":  # where a part that was left behind stays
    import fcntl

#: Bytes of a file's name that its part's name repeats: names have a limit.
STEM_BYTES = 150


@contextmanager
def whole_file(path: Path) -> Iterator[Path]:
    """Where to write a file, which gets its name in one step when the context ends.

    Whoever reads ``path`` never sees half of it, and if the context ends with an exception, what was there before is
    there still. The place is a hidden file beside it, with the same suffix, for what asks a name how to write; the
    next one who writes the file removes what a process that was killed has left there. Mode and owner of a file that
    is replaced stay, and of a symbolic link it is the target. What cannot be replaced is written in place: a device,
    a pipe, a file in a folder that takes no new ones.

    :raises OSError: as ``open(path, "wb")`` does
    """
    target = Path(os.path.realpath(path))
    old = target.stat() if target.exists() else None
    found = _new_part(target) if old is None or stat.S_ISREG(old.st_mode) else None
    if found is None:
        yield path
        return
    part, descriptor = found
    try:
        if old is not None:
            os.close(os.open(target, os.O_WRONLY))  # a folder's permissions would let a protected file be replaced
            _take_after(old, descriptor)
        yield part
        os.fsync(descriptor)
        if sys.platform == "win32":  # which renames no open file
            os.close(descriptor)
        part.replace(target)
        _flush_folder(target.parent)
    finally:
        part.unlink(missing_ok=True)
        with suppress(OSError):
            os.close(descriptor)


def path_for_saving(path: str | os.PathLike[str], suffix: str) -> Path:
    """The name that SB3 saves under: with a suffix, in a folder that is there, and no folder's own.

    :param suffix: what a name without one gets, such as ``"zip"``
    """
    path = Path(path)
    path = path if path.suffix else Path(f"{path}.{suffix}")
    while path.is_dir():
        warnings.warn(f"Path '{path}' is a folder. Will save instead to {path}_2", stacklevel=3)
        path = Path(f"{path}_2")
    if not path.parent.exists():
        warnings.warn(f"Path '{path.parent}' does not exist. Will create it.", stacklevel=3)
        path.parent.mkdir(exist_ok=True, parents=True)
    return path


def is_name_of(path: Path, descriptor: int) -> bool:
    """Whether the name is that of the open file: another process may have removed it, and made another of that name."""
    try:
        return os.path.samestat(path.lstat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False


@contextmanager
def _unlocked(path: Path) -> Iterator[bool]:
    """Whether nobody writes a part any more; while the context lasts, nobody else is told so."""
    # Not through a link that somebody has put there, and not waiting for the other end of a pipe
    flags = os.O_RDWR | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
    try:
        descriptor = os.open(path, flags)
    except OSError:
        yield False
        return
    try:
        yield (
            stat.S_ISREG(os.fstat(descriptor).st_mode)
            and _lock(descriptor, wait=False)
            and is_name_of(path, descriptor)
        )
    finally:
        os.close(descriptor)


def _remove_abandoned(target: Path) -> None:
    """Remove the parts of a file that nobody writes any more."""
    try:
        names = os.listdir(target.parent)
    except OSError:  # it may be written to all the same
        return
    beginning, end = _part_name(target)
    is_part = re.compile(rf"{re.escape(beginning)}[0-9a-f]{{16}}{re.escape(end)}")
    for part in (target.with_name(name) for name in names if is_part.fullmatch(name)):
        with _unlocked(part) as is_abandoned:
            if is_abandoned:
                part.unlink(missing_ok=True)


def _new_part(target: Path) -> tuple[Path, int] | None:
    """An empty part under a name that nobody can have foreseen, locked for as long as its descriptor is open.

    :return: None if the folder takes no new files
    """
    _remove_abandoned(target)
    beginning, end = _part_name(target)
    flags = os.O_RDWR | os.O_CREAT | os.O_EXCL | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
    while True:
        part = target.with_name(f"{beginning}{secrets.token_hex(8)}{end}")
        try:
            descriptor = os.open(part, flags, 0o666)
        except PermissionError:
            return None
        _lock(descriptor, wait=True)
        if is_name_of(part, descriptor):
            return part, descriptor
        os.close(descriptor)  # taken for abandoned, and removed before it was locked


def _take_after(old: os.stat_result, descriptor: int) -> None:
    """Owner and mode of the file that is replaced."""
    if sys.platform != "win32":
        with suppress(PermissionError):  # who may write a file need not be allowed to give it away
            os.fchown(descriptor, old.st_uid, old.st_gid)
        os.fchmod(descriptor, stat.S_IMODE(old.st_mode))


def _part_name(target: Path) -> tuple[str, str]:
    """What the names of its parts begin and end with."""
    return f".{target.stem.encode()[:STEM_BYTES].decode(errors='ignore')}.", f".part{target.suffix}"


def _lock(descriptor: int, wait: bool) -> bool:
    """Lock an open file until it is closed, also by the process's death; False if that cannot be."""
    if sys.platform == "win32":
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except OSError:  # another has it, or the file system has no locks: then nothing is ever taken for abandoned
        return False
    return True


def _flush_folder(folder: Path) -> None:
    """Have the new name on the disk; some systems cannot do that, and the file is there all the same."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
