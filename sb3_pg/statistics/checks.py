"""What may be called scores: every function of this room refuses the rest with one line that says where it is wrong."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


def as_floats(values: ArrayLike, name: str) -> Floats:
    """An array of float64, or a line that says that there are no numbers in it."""
    try:
        return np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{name} must be an array of numbers, every row as long as the others: {error}") from error


def check_scores(scores: ArrayLike, name: str = "scores") -> Floats:
    """Scores as an array.

    :param scores: ``(..., runs, tasks)``
    :param name: what the message calls them
    :return: ``(..., runs, tasks)``
    :raises ValueError: for another shape, no scores at all, and a score that is not finite, naming its run and task
    """
    array = as_floats(scores, name)
    if array.ndim < 2:
        raise ValueError(f"{name} must have shape (runs, tasks), got {array.shape}: one task is scores[:, None]")
    if array.size == 0:
        raise ValueError(f"{name} must have at least one run and one task, got shape {array.shape}")
    if not np.isfinite(array).all():
        where = tuple(int(i) for i in np.argwhere(~np.isfinite(array))[0])
        place = f"run {where[0]} of task {where[1]}" if array.ndim == 2 else f"index {where}"
        raise ValueError(
            f"{name} must be finite, got {array[where]} for {place}: "
            "leave the task out, or say what a run that failed is worth"
        )
    return array


def check_same_tasks(x: Floats, y: Floats) -> None:
    """Refuse scores of two algorithms on different numbers of tasks."""
    if x.shape[-1] != y.shape[-1]:
        raise ValueError(f"both need the same tasks, got {x.shape[-1]} and {y.shape[-1]}: leave out what one lacks")


def check_two(x: ArrayLike, y: ArrayLike, paired: bool = False) -> tuple[Floats, Floats]:
    """Scores of two algorithms, ``(runs, tasks)`` each, with the same tasks; with the same number of runs if paired."""
    of_x, of_y = check_scores(x, "x"), check_scores(y, "y")
    if of_x.ndim != 2 or of_y.ndim != 2:
        raise ValueError(f"x and y must have shape (runs, tasks), got {of_x.shape} and {of_y.shape}")
    check_same_tasks(of_x, of_y)
    if paired and len(of_x) != len(of_y):
        raise ValueError(f"pairs need the same seeds in the same order, got {len(of_x)} and {len(of_y)} runs")
    return of_x, of_y


def check_algorithms(scores: Mapping[str, ArrayLike]) -> dict[str, Floats]:
    """Scores of several algorithms, ``(runs, tasks)`` each, with the same tasks."""
    if not scores:
        raise ValueError("there are no scores: give at least one algorithm's, as {name: array of shape (runs, tasks)}")
    checked = {name: check_scores(of_one, f"the scores of {name}") for name, of_one in scores.items()}
    for name, array in checked.items():
        if array.ndim != 2:
            raise ValueError(f"the scores of {name} must have shape (runs, tasks), got {array.shape}")
    n_tasks = {name: array.shape[1] for name, array in checked.items()}
    if len(set(n_tasks.values())) > 1:
        counts = ", ".join(f"{name} {count}" for name, count in n_tasks.items())
        raise ValueError(f"all algorithms need the same tasks, got {counts}: leave out what one of them lacks")
    return checked


def check_fraction(value: float, name: str) -> None:
    """Refuse what is not strictly between 0 and 1."""
    if not 0 < value < 1:
        raise ValueError(f"{name} must be a number between 0 and 1, got {value}")
