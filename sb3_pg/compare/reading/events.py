"""TensorBoard's event files, by its own reader."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from sb3_pg.compare.reading.files import Remarks, cannot_read
from sb3_pg.compare.reading.progress import Columns, not_finite

#: A mark of every event file's name; SB3's writer goes on with the second of its making.
MARK = "events.out.tfevents."
#: Bytes around each record: its length and two check sums.
FRAME = 16
SECONDS = "time/time_elapsed"
Rows = dict[int, dict[str, float]]


def second_of(path: Path) -> int | None:
    """When an event file was made, in seconds since 1970, as its name says."""
    second = path.name.removeprefix(MARK).split(".")[0]
    return int(second) if second.isdigit() else None


def read_events(paths: Iterable[Path]) -> tuple[Columns, Remarks]:
    """The scalars of one folder's event files as columns, a row for each step.

    SB3 leaves ``time/total_timesteps`` and ``time/time_elapsed`` out of event files, which have a step and a time for
    all that is in them: they come back as columns. Of two files in one folder the later is that of a run that went on:
    from its first step on it alone counts.
    """
    rows: Rows = {}
    remarks: Remarks = ()
    for path in sorted(paths, key=lambda path: (second_of(path) or 0, path.name)):
        later, more = _rows(path)
        remarks += more
        start = min(later, default=None)
        again = [] if start is None else [step for step in rows if step >= start]
        if again:
            remarks += (
                f"{path.name}: begins at step {start}; {len(again)} later steps of an earlier file are left out",
            )
        rows = {step: row for step, row in rows.items() if step not in again}
        before = max((row[SECONDS] for row in rows.values()), default=0.0)
        rows |= {step: row | {SECONDS: row[SECONDS] + before} for step, row in later.items()}
    steps = sorted(rows)
    keys = sorted({key for row in rows.values() for key in row})
    columns = {key: np.array([rows[step].get(key, np.nan) for step in steps], dtype=np.float64) for key in keys}
    remarks += not_finite("event files", {key for row in rows.values() for key in row if not math.isfinite(row[key])})
    if rows:
        columns["time/total_timesteps"] = np.array(steps, dtype=np.float64)
    return columns, remarks


def _rows(path: Path) -> tuple[Rows, Remarks]:
    """The scalars of a file by step, with the seconds since it was begun, up to the first record that is not whole."""
    from tensorboard.backend.event_processing.event_file_loader import RawEventFileLoader
    from tensorboard.compat.proto.event_pb2 import Event

    rows: Rows = {}
    read, begun = 0, None
    try:
        for record in RawEventFileLoader(str(path)).Load():
            read += len(record) + FRAME
            event = Event.FromString(record)
            begun = event.wall_time if begun is None else begun
            scalars = {value.tag: scalar for value in event.summary.value for scalar in _scalar(value)}
            if scalars:
                rows.setdefault(event.step, {SECONDS: event.wall_time - begun}).update(scalars)
        rest = path.stat().st_size - read
    except Exception as error:  # of protobuf's and TensorBoard's own kinds
        return rows, (cannot_read(path, error),)
    # The reader stops at a damaged record without a word
    return rows, (f"{path.name}: its last {rest} bytes are half written, and left out",) if rest > 0 else ()


def _scalar(value: Any) -> Sequence[float]:
    """The number of a summary, if it is one, in the old format (PyTorch's writer) or the new."""
    if value.HasField("simple_value"):
        return [float(value.simple_value)]
    if value.HasField("tensor") and value.metadata.plugin_data.plugin_name == "scalars":
        from tensorboard.util.tensor_util import make_ndarray

        return [float(make_ndarray(value.tensor).reshape(-1)[0])]
    return []
