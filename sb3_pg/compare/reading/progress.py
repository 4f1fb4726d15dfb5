"""What SB3's logger wrote: ``progress.csv``, ``progress.json``."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sb3_pg.compare.reading.files import Remarks, number, table, whole_lines
from sb3_pg.compare.records import Floats

Columns = dict[str, Floats]


def read_progress_csv(path: Path) -> tuple[Columns, Remarks]:
    """The columns of ``progress.csv``.

    SB3 writes the whole file anew, with longer lines, when a key comes up that was not there before; a line with
    another number of cells than the first is from a process that was killed meanwhile.
    """
    text, remarks = whole_lines(path)
    keys, *lines = [line for line in table(text) if line] or [[]]
    rows = [line for line in lines if len(line) == len(keys)]
    remarks += _left_out(path, len(lines) - len(rows))
    return _columns([dict(zip(keys, row, strict=True)) for row in rows], path.name, remarks)


def read_progress_json(path: Path) -> tuple[Columns, Remarks]:
    """The columns of ``progress.json``, which has a JSON object on each line."""
    text, remarks = whole_lines(path)
    rows, lines = [], text.split("\n")[:-1]
    for line in lines:
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict):
            rows.append({key: "" if value is None else str(value) for key, value in row.items()})
    return _columns(rows, path.name, remarks + _left_out(path, len(lines) - len(rows)))


def _columns(rows: Sequence[dict[str, str]], name: str, remarks: Remarks) -> tuple[Columns, Remarks]:
    """A column for every key that ever has a number, and which of them were not finite although they were logged."""
    keys = dict.fromkeys(key for row in rows for key in row)
    columns = {key: np.array([number(row.get(key, "")) for row in rows], dtype=np.float64) for key in keys}
    columns = {key: values for key, values in columns.items() if not np.isnan(values).all()}
    bad = [key for key in keys if any(_is_bad(row.get(key, "")) for row in rows)]
    return columns, remarks + not_finite(name, bad)


def not_finite(name: str, keys: Iterable[str]) -> Remarks:
    """A line on keys that were logged with something else than a number; in a column that is as if they were not."""
    bad = ", ".join(sorted(keys))
    return (f"{name}: not always finite where it was logged: {bad}",) if bad else ()


def _is_bad(text: str) -> bool:
    value: Any = number(text)
    return math.isinf(value) or text.strip().lower() in ("nan", "-nan")


def _left_out(path: Path, n_lines: int) -> Remarks:
    return (f"{path.name}: {n_lines} damaged lines are left out",) if n_lines else ()
