"""Scores of different tasks on one scale, under a name that says what 0 and 1 are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from sb3_pg.statistics.checks import Floats, as_floats, check_algorithms, check_scores


@dataclass(frozen=True)
class Normalisation:
    """(score - zero) / (one - zero), task by task.

    :param name: what a figure's axis calls it
    :param zero: ``(tasks,)`` the score that becomes 0
    :param one: ``(tasks,)`` the score that becomes 1
    """

    name: str
    zero: Floats
    one: Floats

    def __call__(self, scores: ArrayLike) -> Floats:
        """The scores on that scale.

        :param scores: ``(..., runs, tasks)``
        :return: of the same shape
        """
        array = check_scores(scores)
        if array.shape[-1] != len(self.zero):
            raise ValueError(f"the normalisation is one of {len(self.zero)} tasks, got scores of {array.shape[-1]}")
        return (array - self.zero) / (self.one - self.zero)


def no_normalisation(n_tasks: int) -> Normalisation:
    """Scores as they are."""
    return Normalisation("none", np.zeros(n_tasks), np.ones(n_tasks))


def min_max(scores: Mapping[str, ArrayLike]) -> Normalisation:
    """0 is the lowest score of any run of any algorithm on the task, 1 the highest.

    The scale is one of these runs: another algorithm, or another seed, and it changes.

    :param scores: ``(runs, tasks)`` of each algorithm
    :raises ValueError: for a task on which all runs score the same
    """
    every_run = np.concatenate(list(check_algorithms(scores).values()))
    low, high = every_run.min(axis=0), every_run.max(axis=0)
    (flat,) = np.nonzero(low == high)
    if flat.size:
        raise ValueError(
            f"min-max has no scale for task {flat[0]}, where every run scores {low[flat[0]]:g}: "
            "leave it out, or normalise between a random policy and a reference"
        )
    return Normalisation("min-max over all runs", low, high)


def between(random: ArrayLike, reference: ArrayLike) -> Normalisation:
    """0 is the score of a random policy, 1 that of a reference (a human's, an expert's, a published one).

    :param random: ``(tasks,)``
    :param reference: ``(tasks,)``
    :raises ValueError: for a task on which the two are equal
    """
    zero, one = as_floats(random, "random"), as_floats(reference, "reference")
    if zero.ndim != 1 or zero.shape != one.shape:
        raise ValueError(f"random and reference must have one shape (tasks,), got {zero.shape} and {one.shape}")
    if not (np.isfinite(zero).all() and np.isfinite(one).all()):
        raise ValueError("random and reference must be finite: leave out the tasks for which one is not known")
    (flat,) = np.nonzero(zero == one)
    if flat.size:
        raise ValueError(
            f"random and reference of task {flat[0]} are both {one[flat[0]]:g}: they must differ to make a scale"
        )
    return Normalisation("random 0, reference 1", zero, one)
