"""Grids that are killed, at moments drawn from a seed, and go on: ``python -m tests.compare_grid.kills --kills 10``.

Each grid is a process of its own with two workers. Half of the kills strike all of them, half the parent alone, whose
workers are then orphans while the next grid begins. In the end the folder must be that of a grid that nobody killed.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.compare_grid.small import N_CELLS, answers, fill, litter

ROOT = Path(__file__).parents[2]


def start(out: Path) -> subprocess.Popen[bytes]:
    """The small grid with two workers, in a process group of its own."""
    code = f"from pathlib import Path; from tests.compare_grid.small import fill; fill(Path({str(out)!r}), jobs=2)"
    return subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, start_new_session=True)


def wait_for(condition: Callable[[], object], process: subprocess.Popen[bytes], seconds: float = 300) -> None:
    """Until it holds or the process has ended."""
    end = time.monotonic() + seconds
    while not condition() and process.poll() is None:
        if time.monotonic() > end:
            raise TimeoutError(f"waited {seconds} s")
        time.sleep(0.002)


def kill(process: subprocess.Popen[bytes], whole_group: bool) -> None:
    """SIGKILL, for the process and all that it has started, or for it alone."""
    if whole_group:
        os.killpg(process.pid, signal.SIGKILL)
    else:
        process.kill()
    process.wait()


def has_members(group: int) -> bool:
    """Whether there is a process in a group."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def kill_once(out: Path, after: float, whole_group: bool) -> int | None:
    """Start or resume the grid, and kill it so many seconds after its first cell has begun.

    :return: its process group; None if it had ended by then
    """
    process = start(out)
    before = set(out.glob("*/.*.cell-????????"))
    wait_for(lambda: set(out.glob("*/.*.cell-????????")) - before, process)
    try:
        process.wait(after)
    except subprocess.TimeoutExpired:
        kill(process, whole_group)
        return process.pid
    return None


def main(argv: Sequence[str] | None = None) -> int:
    """Kill as often as asked for; a grid that is complete before that begins anew in another folder."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args(argv)
    rng = random.Random(arguments.seed)
    with tempfile.TemporaryDirectory() as folder:
        fill(Path(folder, "expected"))
        expected = answers(Path(folder, "expected"))
        kills, round_ = 0, 0
        while kills < arguments.kills:
            out = Path(folder, f"round_{round_}")
            out.mkdir()
            round_ += 1
            while kills < arguments.kills and len(answers(out)) < N_CELLS:
                whole_group = rng.random() < 0.5
                after = rng.uniform(0, 2)
                if kill_once(out, after, whole_group) is not None:
                    kills += 1
                    what = "all" if whole_group else "the parent"
                    left = f"{len(answers(out))} cells, {len(litter(out))} left over"
                    print(f"kill {kills}: {what} after {after:.2f} s: {left}", flush=True)
            if start(out).wait() != 0 or answers(out) != expected or litter(out):
                print(f"not the same: {sorted(answers(out))}, {litter(out)}")
                return 1
            print(f"resumed to its end: {N_CELLS} cells, the same to the bit, nothing left over")
    return 0


if __name__ == "__main__":
    sys.exit(main())
