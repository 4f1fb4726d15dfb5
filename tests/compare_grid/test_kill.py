"""Grids that are killed and resumed, interrupted, or started twice: no cell is lost, doubled or mixed.

The processes of most tests are forks of this one, which has imported everything; ``kills.py`` kills grids of processes
that begin from nothing, with workers.
"""

from __future__ import annotations

import json
import multiprocessing as mp
import os
import random
import signal
import time
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest

from sb3_pg.compare.grid.folders import hidden, locked, remove_abandoned
from tests.compare_grid import kills
from tests.compare_grid.small import N_CELLS, answers, fill, litter


def _fill(out: Path, report: Path) -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    found = fill(out)
    report.write_text(json.dumps([str(result.folder) for result in found if result.is_new]))


def forked(out: Path, report: Path) -> BaseProcess:
    """The small grid in a process of its own, which says in a file what it has trained."""
    process = mp.get_context("fork").Process(target=_fill, args=(out, report))
    process.start()
    return process


def test_ten_kills(expected: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    """SIGKILL at moments from a seed; what was finished before is not trained again."""
    rng = random.Random(0)
    out, n_kills = tmp_path / "0", 0
    for attempt in range(100):
        finished = {path: path.stat().st_mtime_ns for path in out.glob("*/*/cell.json")}
        process = forked(out, tmp_path / "report")
        time.sleep(rng.uniform(0.0, 1.0))
        if process.exitcode is None and n_kills < 10:
            process.kill()
            n_kills += 1
        process.join()
        for path, time_ns in finished.items():
            assert path.stat().st_mtime_ns == time_ns
        if process.exitcode == 0:
            assert answers(out) == expected
            assert litter(out) == []
            if n_kills == 10:
                return
            out = tmp_path / str(attempt + 1)
    pytest.fail("ten kills were not to be had")


def test_orphans(expected: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    """The parent alone is killed; the next grid begins while its workers are still there."""
    group = kills.kill_once(tmp_path, 0.0, whole_group=False)
    assert group is not None
    fill(tmp_path)
    assert answers(tmp_path) == expected
    assert litter(tmp_path) == []
    end = time.monotonic() + 120
    while kills.has_members(group):
        assert time.monotonic() < end, "workers of the dead grid are still there"
        time.sleep(0.05)


def test_two_at_once(expected: dict[str, dict[str, Any]], tmp_path: Path) -> None:
    """Two grids share the cells, and both end when all are there."""
    reports = [tmp_path / "first", tmp_path / "second"]
    processes = [forked(tmp_path / "out", report) for report in reports]
    for process in processes:
        process.join()
        assert process.exitcode == 0
    trained = [folder for report in reports for folder in json.loads(report.read_text())]
    assert len(trained) == len(set(trained)) == N_CELLS
    assert answers(tmp_path / "out") == expected
    assert litter(tmp_path / "out") == []


def test_interrupt(tmp_path: Path) -> None:
    """Ctrl-C leaves whole cells only."""
    process = forked(tmp_path / "out", tmp_path / "report")
    while not list(tmp_path.glob("out/*/.*/evaluations.npz")):
        assert process.exitcode is None
        time.sleep(0.001)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGINT)
    process.join()
    assert process.exitcode == 1
    assert not (tmp_path / "report").exists()
    assert litter(tmp_path / "out") == []


def test_what_the_dead_have_left(tmp_path: Path) -> None:
    """Removed, unless somebody is at work there."""
    dead, alive, finished = (tmp_path / "ppo" / f"CartPole-v1_{number}" for number in (1, 2, 10))
    for place in (dead, alive):
        hidden(place, "abc").mkdir(parents=True)
    finished.mkdir()
    (tmp_path / "ppo" / ".of_1.theirs").mkdir()
    hidden(dead, "lock").write_text("")
    with locked(alive):
        remove_abandoned(tmp_path)
        there = sorted(path.name for path in (tmp_path / "ppo").iterdir())
        assert there == [".CartPole-v1_2.cell-abc", ".CartPole-v1_2.cell-lock", ".of_1.theirs", "CartPole-v1_10"]
    remove_abandoned(tmp_path)
    assert sorted(path.name for path in (tmp_path / "ppo").iterdir()) == [".of_1.theirs", "CartPole-v1_10"]


def test_one_lock_a_place(tmp_path: Path) -> None:
    """Whoever has waited for a lock has it alone, though the one before has removed its file."""
    place = tmp_path / "a2c" / "CartPole-v1_1"
    log = tmp_path / "log"
    processes = [mp.get_context("fork").Process(target=_alone, args=(place, log)) for _ in range(4)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
        assert process.exitcode == 0
    assert log.read_text() == "()" * 40
    assert list(place.parent.iterdir()) == []


def _alone(place: Path, log: Path) -> None:
    for _ in range(10):
        with locked(place), log.open("a") as file:
            file.write("(")
            file.flush()
            time.sleep(0.001)
            file.write(")")
