"""``evaluations.npz`` as SB3's EvalCallback writes it, anew at each evaluation."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np

from sb3_pg.compare.reading.files import Remarks, cannot_read
from sb3_pg.compare.records import Evaluations, Floats


def read_evaluations(path: Path, deterministic: bool | None = None) -> tuple[Evaluations | None, Remarks]:
    """The evaluations of a run; nothing of them if the file is not whole, since a zip's directory comes last.

    Of a step that was evaluated more than once, as by a run that went on from a checkpoint, the last evaluation counts.
    Scores that are no numbers stay.

    :param deterministic: whether the policy's mode acted, which the file does not say
    """
    try:
        # NumPy leaves a file open that it was given by name and cannot read; it unpickles nothing
        with path.open("rb") as file, np.load(file) as log:
            steps, returns = (np.asarray(log[key], dtype=np.float64) for key in ("timesteps", "results"))
    except KeyError as error:
        return None, (f"{path.name}: has no array {error.args[0].split()[0]}, so it is not EvalCallback's",)
    except (OSError, ValueError, EOFError, zipfile.BadZipFile) as error:
        return None, (cannot_read(path, error),)
    if returns.ndim == 1:
        returns = returns[:, None]
    if steps.ndim != 1 or returns.ndim != 2 or len(steps) != len(returns) or not returns.size:
        return None, (f"{path.name}: {steps.shape} steps and {returns.shape} returns are not those of evaluations",)
    order, remarks = last_of_each(steps, path.name)
    steps, returns = steps[order], returns[order]
    is_finite = np.isfinite(returns).all(axis=1)
    if not is_finite.all():
        n_bad, first = np.count_nonzero(~is_finite), steps[np.argmin(is_finite)]
        remarks += (f"{path.name}: {n_bad} of {len(steps)} scores are not finite, first at step {first:.0f}",)
    return Evaluations(steps, returns, deterministic), remarks


def evaluations_from_log(
    progress: dict[str, Floats], deterministic: bool | None = None
) -> tuple[Evaluations | None, Remarks]:
    """The means of evaluations that a logger kept (``eval/mean_reward``), as evaluations."""
    steps, means = progress.get("time/total_timesteps"), progress.get("eval/mean_reward")
    if steps is None or means is None:
        return None, ()
    is_there = np.isfinite(steps) & ~np.isnan(means)
    if not is_there.any():
        return None, ()
    steps, means = steps[is_there], means[is_there]
    order, remarks = last_of_each(steps, "eval/mean_reward")
    remarks += ("evaluations: only their means are known, from the log",)
    return Evaluations(steps[order], means[order, None], deterministic, are_means=True), remarks


def last_of_each(steps: Floats, name: str) -> tuple[np.ndarray, Remarks]:
    """Indices that bring steps into ascending order, with the last of those that are equal."""
    # np.unique finds the first of equal ones: look at them backwards
    unique, backwards = np.unique(steps[::-1], return_index=True)
    repeated = len(steps) - len(unique)
    again = f"{name}: {repeated} evaluations of steps that were evaluated again later are left out"
    return len(steps) - 1 - backwards, (again,) if repeated else ()
