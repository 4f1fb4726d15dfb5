"""Evaluation curves of several runs over environment steps, seconds of training or gradient steps."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from sb3_pg.compare.records import Floats, Record
from sb3_pg.statistics import Band, RunSpread, curve_band, mean, run_spread, stack_curves

#: What a curve can run over, and how its axis is called.
AXES: Mapping[str, str] = {
    "steps": "environment steps",
    "seconds": "seconds of training",
    "updates": "gradient steps",
}
#: The logger's columns that say when each of them was.
CLOCK = "time/total_timesteps"
COLUMNS = {"seconds": "time/time_elapsed", "updates": "train/n_updates"}
#: At most so many round points has a curve whose runs were not measured alike.
N_POINTS = 60
#: What a cell of ours notes at each of its evaluations.
NOTES = {"seconds": "train_seconds", "updates": "gradient_steps"}


@dataclass(frozen=True)
class LearningCurve:
    """The evaluations of one algorithm on one environment.

    :param x: ``(points,)``, along one of :data:`AXES`
    :param band: mean over the runs with its confidence interval; None for a single run
    :param spread: how far the runs lie apart, which is not the confidence of their mean
    :param n_runs: that it is made of
    """

    algorithm: str
    env_id: str
    axis: str
    x: Floats
    band: Band | None
    spread: RunSpread
    n_runs: int

    @property
    def mean(self) -> Floats:
        """Mean over the runs; shape ``(points,)``, nan where one of them was not evaluated."""
        return self.spread.median if self.band is None else self.band.estimate


def times(record: Record, axis: str) -> Floats | None:
    """When a run's evaluations were, along an axis; None where the run does not say.

    A cell of ours has noted them: seconds without those of the evaluations, and gradient steps whatever the algorithm
    calls an update. Otherwise they are read from what the logger wrote, on a line between its rows.
    """
    if record.evaluations is None or not len(record.evaluations.steps):
        return None
    steps = record.evaluations.steps
    if axis == "steps":
        return steps
    notes = record.facts.get("evaluations", {})
    noted = notes.get(NOTES[axis]) if np.array_equal(notes.get("steps", ()), steps) else None
    if noted is not None and None not in noted:
        return np.asarray(noted, dtype=np.float64)
    logged = record.progress.get(COLUMNS[axis])
    clock = record.progress.get(CLOCK)
    if logged is None or clock is None:
        return None
    known = np.isfinite(logged) & np.isfinite(clock)
    if not known.any():
        return None
    # Nothing has passed before the first step; np.interp keeps the last row's for what comes after it
    at, value = np.concatenate([[0.0], clock[known]]), np.concatenate([[0.0], logged[known]])
    interpolated: Floats = np.interp(steps, at, value)
    return interpolated


def learning_curves(records: Sequence[Record], axis: str = "steps") -> list[LearningCurve]:
    """A curve for each algorithm and environment, in the order in which they come.

    A point is there where every run has been evaluated before and after it: a run that broke off ends its
    algorithm's curve. Evaluations that are not finite end their run's.
    """
    groups: dict[tuple[str, str], list[tuple[Floats, Floats]]] = {}
    for record in records:
        x = times(record, axis)
        if x is None or record.evaluations is None:
            continue
        scores = record.evaluations.scores
        finite = np.isfinite(scores)
        end = len(scores) if finite.all() else int(np.argmin(finite))
        distinct = np.concatenate([[True], np.diff(x[:end]) > 0]) if end else np.zeros(0, dtype=bool)
        if distinct.any():
            run = x[:end][distinct], scores[:end][distinct]
            groups.setdefault((record.algorithm, record.env_id), []).append(run)
    return _curves(groups, axis, _grid)


def _curves(
    groups: Mapping[tuple[str, str], list[tuple[Floats, Floats]]],
    axis: str,
    grid_of: Callable[[Sequence[Floats]], Floats],
) -> list[LearningCurve]:
    curves = []
    for (algorithm, env_id), runs in groups.items():
        grid = grid_of([x for x, _ in runs])
        if len(grid):
            stacked = stack_curves(runs, grid)
            band = curve_band(stacked, mean) if len(runs) > 1 else None
            curves.append(LearningCurve(algorithm, env_id, axis, grid, band, run_spread(stacked), len(runs)))
    return curves


def _grid(runs: Sequence[Floats]) -> Floats:
    """Where a curve has its points; nowhere if one of the runs ends before another begins."""
    longest = max(runs, key=len)
    if all(np.array_equal(x, longest[: len(x)]) for x in runs):
        return longest  # measured alike, for as long as each went on
    return _round_grid(runs)


def logged_curves(records: Sequence[Record], key: str) -> list[LearningCurve]:
    """What the logger wrote under a key, over environment steps, a curve for each algorithm and environment.

    A run may have logged thousands of rows, and each algorithm at steps of its own: a curve has as many points as can
    be seen, each the mean of the rows around it, at round steps that the curves of all algorithms share.

    :param key: SB3's, like ``train/approx_kl``; runs without it are left out
    """
    groups: dict[tuple[str, str], list[tuple[Floats, Floats]]] = {}
    for record in records:
        logged, clock = record.progress.get(key), record.progress.get(CLOCK)
        if logged is None or clock is None:
            continue
        known = np.isfinite(logged) & np.isfinite(clock)
        # Of rows at one step, as a resumed run may have, the last
        known[:-1] &= ~(np.diff(clock) <= 0)
        if known.sum() > 1:
            run = _coarse(clock[known], logged[known])
            groups.setdefault((record.algorithm, record.env_id), []).append(run)
    return _curves(groups, "steps", _round_grid)


def _coarse(x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """The rows of each stretch between two round steps put together: the means of both columns."""
    stretch = np.ceil(x / _round_step(x[-1])).astype(int)
    _, which, counts = np.unique(stretch, return_inverse=True, return_counts=True)
    return np.bincount(which, x) / counts, np.bincount(which, y) / counts


def _round_grid(runs: Sequence[Floats]) -> Floats:
    """Where all runs are known: its begin, round steps, its end; nowhere if one run ends before another begins."""
    begin, end = max(x[0] for x in runs), min(x[-1] for x in runs)
    if begin > end:
        return runs[0][:0]
    step = _round_step(end)
    between = np.arange(np.ceil(begin / step), np.floor(end / step) + 1) * step
    return np.unique(np.clip([begin, *between, end], begin, end))


def _round_step(end: float) -> float:
    """The smallest of 1, 2, 5, 10, 20 ... that is not in ``end`` more than :data:`N_POINTS` times."""
    power = 10.0 ** np.floor(np.log10(end / N_POINTS))
    return float(next(step for factor in (1, 2, 5, 10) if (step := factor * power) * N_POINTS >= end))
