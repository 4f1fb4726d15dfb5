"""Files that a killed run may have left half written: what is whole of them, and a line about what is not."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

#: What could not be read, a line each, beginning with the file's name.
Remarks = tuple[str, ...]


def whole_lines(path: Path) -> tuple[str, Remarks]:
    """The lines of a text file that were written to their end.

    :return: text that is empty or ends with a line break, and what is to be said of the rest
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        return "", (cannot_read(path, error),)
    # A machine that lost power leaves blocks of zeros
    text = content.decode(errors="replace").replace("\0", "")
    end = text.rfind("\n") + 1
    return text[:end], (f"{path.name}: its last line is half written, and left out",) if end < len(text) else ()


def table(lines: str) -> Iterator[list[str]]:
    """The cells of comma-separated lines; a line that is no such thing has none."""
    reader = csv.reader(io.StringIO(lines, newline=""))
    while True:
        try:
            yield next(reader)
        except StopIteration:
            return
        except csv.Error:
            yield []


def number(text: str) -> float:
    """A cell as a number; nan if it is none."""
    try:
        return float(text)
    except ValueError:
        return math.nan


def integer(value: Any) -> int | None:
    """A number that another program wrote down where an integer belongs; None for anything else."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)
    return int(value) if is_number else None


def cannot_read(path: Path, error: Exception) -> str:
    """A line about a file that says nothing."""
    text = error.strerror if isinstance(error, OSError) and error.strerror else " ".join(str(error).split())
    return f"{path.name}: cannot be read ({text or type(error).__name__})"
