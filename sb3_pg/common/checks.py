"""Errors for people: what was wrong, what was given, what to write instead."""

from __future__ import annotations

import math
from collections.abc import Collection

import numpy as np

#: Numbers whose sum of squares NumPy's OpenBLAS takes on one thread.
ONE_THREAD = 8192


def check_choice(name: str, value: object, choices: Collection[str], or_else: str = "") -> None:
    """Refuse a name that is not among the valid ones, and list them.

    :param or_else: what else is valid, in words
    """
    if value not in choices:
        valid = ", ".join(repr(choice) for choice in choices) + (f" or {or_else}" if or_else else "")
        raise ValueError(f"{name} must be one of {valid}, got {value!r}")


def check_unit_interval(name: str, value: object) -> None:
    """Refuse what is not a number in [0, 1]."""
    if not isinstance(value, (int, float, np.number)) or not 0.0 <= value <= 1.0:
        raise ValueError(f"{name} must be a number in [0, 1], got {value!r}")


def check_positive_int(name: str, value: object, or_none: bool = False) -> None:
    """Refuse what is not an integer of at least 1 (or None, where that means something)."""
    if or_none and value is None:
        return
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or value < 1:
        raise ValueError(f"{name} must be an integer >= 1{' or None' if or_none else ''}, got {value!r}")


def check_finite(what: str, values: np.ndarray | dict[str, np.ndarray], n_envs: int, step: int) -> None:
    """Refuse NaN and infinity from an environment, and name the environment.

    :param values: ``(n_envs, ...)`` array, or a dictionary of such
    :param step: the time step to name, in steps over all environments
    """
    for array in values.values() if isinstance(values, dict) else (values,):
        if array.dtype.kind != "f":
            continue
        # A finite sum of squares settles it for few numbers (for many it would start threads of its own); an infinite
        # one may only have overflowed
        if (array.size <= ONE_THREAD and math.isfinite(np.vdot(array, array))) or np.isfinite(array).all():
            continue
        bad = ~np.isfinite(array).reshape(n_envs, -1).all(axis=1)
        env = int(np.flatnonzero(bad)[0])
        raise ValueError(
            f"{what} of environment {env} at time step {step} is not finite: {array[env]}. The model is as it was "
            "before this rollout and can be saved; mend the environment (VecCheckNan finds the action that led there)."
        )
