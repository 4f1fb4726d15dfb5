"""The Zoo's plots of few runs: its scripts squeeze away an axis of length one, and then miss it."""

from __future__ import annotations

import argparse
import pickle
import sys
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
    _require("-a/--algos", "-e/--env", "-f/--exp-folders")
    with _replaced(gather, "np", load=_load_evaluations):
        gather()


def plot_from_file() -> None:
    """Figures of what all-plots wrote; with one run for each algorithm too."""
    _require("-i/--input")
    with _replaced(draw, "pickle", load=_load_results):
        draw()


def _require(*options: str) -> None:
    """Refuse a call without arguments that the script takes for granted."""
    parser = argparse.ArgumentParser(add_help=False)
    for option in options:
        parser.add_argument(*option.split("/"), nargs="+")
    given, others = parser.parse_known_args(sys.argv[1:])
    missing = [option for option in options if getattr(given, option.split("--")[1].replace("-", "_")) is None]
    if missing and not {"-h", "--help"} & set(others):
        raise ValueError(f"{', '.join(missing)} is required (--help lists the arguments)")


def _replaced(script: Any, module: str, **functions: Any) -> Any:
    """A context in which a script sees other functions in a module than the rest of the process does."""
    own: ModuleType = script.__globals__[module]
    return patch.dict(script.__globals__, {module: SimpleNamespace(**vars(own) | functions)})


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
    """``pickle.load`` for a script that expects every algorithm on every environment, several runs of each, and as many
    evaluations: it compares them by number.
    """
    results = pickle.load(file)
    table = results.pop("results_table")
    envs = {env: methods for env, methods in results.items() if methods}
    if not envs:
        raise ValueError("the file has no evaluations: see what all-plots printed, and its folders")
    everywhere = set.intersection(*(set(methods) for methods in envs.values()))
    for name in sorted({name for methods in envs.values() for name in methods} - everywhere):
        print(f"Leaving out {name}, which has no evaluations on some of {', '.join(envs)}")
    for methods in envs.values():
        for name in methods.keys() - everywhere:
            del methods[name]
    every = [method for methods in envs.values() for method in methods.values()]
    shortest = min((len(method.get("mean_per_eval", ())) for method in every), default=0)
    for method in every:
        method["last_evals"] = np.atleast_1d(method["last_evals"])
        if "mean_per_eval" in method:
            method["mean_per_eval"] = method["mean_per_eval"][:shortest]
    return envs | {"results_table": table}
