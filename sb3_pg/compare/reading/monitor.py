"""The training episodes of a run, from the files of SB3's Monitor and VecMonitor."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np

from sb3_pg.compare.reading.files import Remarks, number, table, whole_lines
from sb3_pg.compare.records import Episodes, Floats

SUFFIX = "monitor.csv"
#: Files of environments that a policy was evaluated in: ``eval.monitor.csv`` beside ``0.monitor.csv``.
OF_EVALUATION = re.compile(r"(eval|test|valid)", re.IGNORECASE)
COLUMNS = ["r", "l", "t"]


@dataclass(frozen=True)
class Session:
    """What one process wrote into one file: more than one where a run was resumed.

    :param start: its beginning in seconds since 1970; None where an appended file does not say it
    :param returns: shape ``(n_episodes,)``, as the next two
    :param lengths: steps of each episode
    :param seconds: from the beginning to each episode's end
    """

    start: float | None
    returns: Floats
    lengths: Floats
    seconds: Floats


def read_monitors(paths: Sequence[Path]) -> tuple[Episodes | None, Remarks]:
    """The episodes of all environments of a run, in the order in which they ended.

    The steps of the whole run at an episode's end are exact where each environment has its own file (as
    ``make_vec_env`` and the Zoo name them: ``0.monitor.csv``, ``1.monitor.csv``, ...) and none was reset before its
    episode's end: the environments of a VecEnv step together, so that when one of n has made ``c`` steps the run has
    made ``n c``.
    Otherwise they are the sum of the lengths so far, as in SB3's ``results_plotter``. That is exact for one
    environment; in VecMonitor's one file for n it lacks the steps of the n - 1 episodes that are still going on.
    Where a run was resumed, those of the episodes that were cut are lacking from there on, in either case.
    A pause between two processes is no part of the seconds.
    """
    together, remarks = _step_together(paths), _strange_names(paths)
    files = []
    for path in sorted(paths):
        sessions, more = _sessions(path)
        files.append(sessions)
        remarks += more
    n_files = len(files) if together else 1
    parts: list[tuple[Floats, Floats, Floats]] = []
    begun = (0.0, 0.0)  # steps and seconds before the session
    for at_once in zip_longest(*files):
        part = _side_by_side([session for session in at_once if session is not None], n_files, together)
        if len(part[0]):
            steps, returns, seconds = part
            parts.append((steps + begun[0], returns, seconds + begun[1]))
            begun = (float(parts[-1][0].max()), float(parts[-1][2].max()))
    if not parts:
        return None, (*remarks, f"{SUFFIX}: no episode ended")
    if len(parts) > 1:
        remarks += (f"{SUFFIX}: resumed {len(parts) - 1} times; steps of episodes that were cut then do not count",)
    steps, returns, seconds = (np.concatenate(columns) for columns in zip(*parts, strict=True))
    n_bad = int(np.count_nonzero(~np.isfinite(returns)))
    if n_bad:
        remarks += (f"{SUFFIX}: {n_bad} of {len(returns)} returns are not finite",)
    return Episodes(steps, returns, seconds), remarks


def first_header(path: Path) -> dict[str, Any]:
    """What a file's first line says: ``t_start`` and ``env_id``."""
    return _header(whole_lines(path)[0].partition("\n")[0])


def _side_by_side(sessions: Sequence[Session], n_envs: int, together: bool) -> tuple[Floats, Floats, Floats]:
    """Steps, returns and seconds of one session in all its files, merged."""
    starts = [session.start for session in sessions if session.start is not None]
    first = min(starts, default=0.0)
    # Taken apart, since seconds since 1970 leave no room for a clock's last digits
    delays = [0.0 if session.start is None else session.start - first for session in sessions]
    seconds = np.concatenate([session.seconds + delay for session, delay in zip(sessions, delays, strict=True)])
    returns = np.concatenate([session.returns for session in sessions])
    if together:
        steps = n_envs * np.concatenate([session.lengths.cumsum() for session in sessions])
        order = np.lexsort((seconds, steps))
        return steps[order], returns[order], seconds[order]
    order = np.argsort(seconds, kind="stable")
    lengths = np.concatenate([session.lengths for session in sessions])
    return lengths[order].cumsum(), returns[order], seconds[order]


def _sessions(path: Path) -> tuple[list[Session], Remarks]:
    """What is in a file, process after process."""
    text, remarks = whole_lines(path)
    # A header begins a session; a process that appends to a file (override_existing=False) writes none
    pieces = re.split(r"^(#.*)\n", text, flags=re.MULTILINE)
    headers, bodies = ["", *pieces[1::2]], pieces[::2]
    sessions: list[Session] = []
    n_damaged, columns = 0, COLUMNS
    for header, body in zip(headers, bodies, strict=True):
        lines = [line for line in table(body) if line]
        columns = next((line for line in lines if line[:3] == COLUMNS), columns if header else _guess(lines))
        lines = [line for line in lines if line[:3] != COLUMNS]
        rows = [row for line in lines if len(line) == len(columns) for row in _episode(line)]
        n_damaged += len(lines) - len(rows)
        if header or rows:
            sessions += _cut_where_time_falls(_header(header).get("t_start"), np.array(rows).reshape(-1, 3))
    if n_damaged:
        remarks += (f"{path.name}: {n_damaged} damaged lines are left out",)
    return sessions, remarks


def _episode(line: Sequence[str]) -> list[list[float]]:
    """Return, length and time of a line; a return may be nan, if that is what is written there."""
    row = [number(cell) for cell in line[:3]]
    is_whole = row[1] >= 1 and np.isfinite(row[1:]).all() and (not np.isnan(row[0]) or line[0].strip("-") == "nan")
    return [row] if is_whole else []


def _guess(lines: Sequence[Sequence[str]]) -> list[str]:
    """Columns of a file that was begun in append mode, which writes neither a header nor their names."""
    return [*COLUMNS, *[""] * (len(lines[0]) - len(COLUMNS))] if lines else COLUMNS


def _cut_where_time_falls(start: Any, rows: np.ndarray) -> list[Session]:
    """One session for each process: its clock begins anew. (One that a clock's correction set back a bit does not.)"""
    seconds = rows[:, 2]
    falls = (seconds[1:] < seconds[:-1] - 1) | (seconds[1:] < seconds[:-1] / 2)
    parts = np.split(rows, np.flatnonzero(falls) + 1)
    first = float(start) if isinstance(start, (int, float)) else None
    return [Session(first if index == 0 else None, *part.T) for index, part in enumerate(parts)]


def _header(line: str) -> dict[str, Any]:
    try:
        header = json.loads(line.removeprefix("#"))
    except ValueError:
        return {}
    return header if isinstance(header, dict) else {}


def _step_together(paths: Sequence[Path]) -> bool:
    """Whether the files are named as those of a VecEnv, one for each environment."""
    stems = [path.name.removesuffix(f".{SUFFIX}") for path in paths]
    return all(stem.isdigit() for stem in stems) and sorted(map(int, stems)) == list(range(len(stems)))


def _strange_names(paths: Sequence[Path]) -> Remarks:
    if len(paths) == 1 or _step_together(paths):
        return ()
    names = ", ".join(sorted(path.name for path in paths))
    return (f"{SUFFIX}: {names} are taken for environments of one run, as SB3's load_results does",)
