"""What one sees of a grid while it trains: a bar with the time left, or a line a cell where there is no terminal.

It looks at the folders, which every backend fills alike, wherever its workers are.
"""

from __future__ import annotations

import sys
import threading
from collections import defaultdict
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import TracebackType

from tqdm import tqdm

from sb3_pg.compare.grid.evaluation import STEPS_FILE
from sb3_pg.compare.grid.folders import place_beside
from sb3_pg.compare.grid.questions import CellResult, Job, known


def display(out: Path, jobs: Sequence[Job], is_shown: bool) -> AbstractContextManager[object]:
    """A context that shows how far a grid's jobs are, or nothing."""
    return Display(out, jobs) if is_shown and jobs else nullcontext()


class Display:
    """Shows the steps done over all cells, and the cells that are done.

    :param out: the folder of the grid
    :param jobs: what there is to do
    """

    LOOK_EVERY = 0.5

    def __init__(self, out: Path, jobs: Sequence[Job]) -> None:
        self._out, self._n_cells = out, len(jobs)
        self._open = {job.place: (job, _identity(job.place)) for job in jobs}
        self._n_finished = self._n_failed = self._n_steps = 0
        # A cell that is trained in this process redirects sys.stdout
        self._stream = sys.stdout
        total = sum(job.cell.budget for job in jobs)
        off = not self._stream.isatty()
        self._bar = tqdm(
            total=total, unit=" steps", unit_scale=True, smoothing=0.05, file=self._stream, disable=off, leave=True
        )
        self._end = threading.Event()
        self._watcher = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Display:
        self._watcher.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end.set()
        self._watcher.join()
        self._look()
        self._bar.close()

    def _watch(self) -> None:
        while not self._end.wait(self.LOOK_EVERY):
            self._look()

    def _look(self) -> None:
        for place, (job, before) in list(self._open.items()):
            if _identity(place) not in (None, before):
                del self._open[place]
                self._n_steps += job.cell.budget
                found = known(job)
                if found is not None:
                    self._finished(found)
        if not self._bar.disable:
            failed = f", {self._n_failed} failed" if self._n_failed else ""
            self._bar.set_description(f"{self._n_finished} of {self._n_cells} cells{failed}", refresh=False)
            self._bar.update(max(0, self._n_steps + self._running() - int(self._bar.n)))

    def _finished(self, result: CellResult) -> None:
        self._n_finished += 1
        self._n_failed += bool(result.error)
        outcome = f"failed: {result.error.strip().splitlines()[-1]}" if result.error else str(result.folder)
        line = f"[{self._n_finished}/{self._n_cells}] {result.label} on {result.env_id}, seed {result.seed}: {outcome}"
        if self._bar.disable:
            print(line, file=self._stream, flush=True)
        elif result.error:
            self._bar.write(line, file=self._stream)

    def _running(self) -> int:
        """Steps of the cells that are being trained."""
        steps: defaultdict[Path, int] = defaultdict(int)
        for path in self._out.glob(f"*/.*/{STEPS_FILE}"):
            place = place_beside(path.parent)
            if place is not None and place in self._open:
                budget = self._open[place][0].cell.budget
                steps[place] = min(max(steps[place], _number(path)), budget)
        return sum(steps.values())


def _identity(place: Path) -> int | None:
    """What tells a folder from the one that was there before; None for no folder."""
    try:
        return place.stat().st_ino
    except FileNotFoundError:
        return None


def _number(path: Path) -> int:
    """What is in a file that may be gone or empty by now."""
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return 0
