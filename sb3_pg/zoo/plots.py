"""The Zoo's plots of few runs: its scripts squeeze away an axis of length one, and then miss it."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np
from rl_zoo3.plots import all_plots as gather
from rl_zoo3.plots import plot_from_file as draw
from rl_zoo3.plots import plot_train as _plot_train


def plot_train() -> None:
    """Learning curves of the training episodes."""
    _plot_train()


def all_plots() -> None:
    """Evaluations of several algorithms, as curves, a table and a file; of one run with one episode too."""
    with _replaced(gather, "np", load=_load_evaluations):
        gather()


def plot_from_file() -> None:
    """Figures of what all-plots wrote; with one run for each algorithm too."""
    with _replaced(draw, "pickle", load=_load_results):
        draw()


def _replaced(script: Callable[[], None], module: str, **functions: Any) -> Any:
    """A context in which a script sees other functions in a module than the rest of the process does."""
    own: ModuleType = script.__globals__[module]  # type: ignore[attr-defined]  # a function has them
    return patch.dict(script.__globals__, {module: SimpleNamespace(**vars(own) | functions)})  # type: ignore[attr-defined]


def _load_evaluations(path: str) -> dict[str, np.ndarray]:
    """``np.load`` with a single evaluation, and a single episode of it, taken twice: no mean and no curve changes."""
    with np.load(path) as log:
        loaded = {key: np.asarray(log[key]) for key in log.files}
    is_single = len(loaded["timesteps"]) == 1
    for key, values in loaded.items():
        if is_single:
            values = np.repeat(values, 2, axis=0)
        if values.ndim == 2 and values.shape[1] == 1:
            values = np.repeat(values, 2, axis=1)
        loaded[key] = values
    return loaded


def _load_results(file: Any) -> Any:
    """``pickle.load`` in which the last evaluations of a single run are an array of one again."""
    results = pickle.load(file)
    for name, methods in results.items():
        if name != "results_table":
            for method in methods.values():
                method["last_evals"] = np.atleast_1d(method["last_evals"])
    return results
