"""Checks of single arguments and of what an environment returned; each error says what to write instead."""

from __future__ import annotations

import math
import sys
from collections.abc import Collection
from typing import TypeGuard

import numpy as np
import torch as th
from stable_baselines3.common.utils import FloatSchedule

#: Most numbers whose sum of squares NumPy's OpenBLAS takes on one thread.
MAX_DOT_SIZE = 8192


def check_choice(name: str, value: object, choices: Collection[str], or_else: str = "") -> None:
    """Refuse a name that is not among the valid ones, and list them.

    :param or_else: what else is valid, in words
    """
    if not isinstance(value, str) or value not in choices:
        valid = ", ".join(repr(choice) for choice in choices) + (f" or {or_else}" if or_else else "")
        raise ValueError(f"{name} must be one of {valid}, got {value!r}")


def is_number(value: object) -> TypeGuard[float]:
    """Whether it is a real number, of Python or of NumPy, and no truth value; of whole numbers, one of a machine's: a
    tensor takes no other.
    """
    if isinstance(value, bool) or not isinstance(value, (int, float, np.integer, np.floating)):
        return False
    return not isinstance(value, int) or abs(value) <= sys.maxsize


def check_unit_interval(name: str, value: object) -> None:
    """Refuse what is not a number in [0, 1]."""
    if not is_number(value) or not 0.0 <= value <= 1.0:
        raise ValueError(f"{name} must be a number in [0, 1], got {value!r}")


def check_positive(name: str, value: object, or_none: str | None = None, may_be_infinite: bool = True) -> None:
    """Refuse what is not a number above 0.

    :param or_none: what None means, where it is valid
    """
    if value is None and or_none is not None:
        return
    if not is_number(value) or not value > 0 or not (may_be_infinite or value < math.inf):
        kind = f"number > 0{'' if may_be_infinite else ' and finite'}{f', or None for {or_none}' if or_none else ''}"
        raise ValueError(f"{name} must be a {kind}, got {value!r}")


def check_not_negative(name: str, value: object) -> None:
    """Refuse what is not a finite number of at least 0."""
    if not is_number(value) or not 0 <= value < math.inf:
        raise ValueError(f"{name} must be a number >= 0, got {value!r}")


def check_schedule(name: str, value: object, or_none: str | None = None, may_be_negative: bool = False) -> None:
    """Refuse what is neither a finite number nor a function of the progress remaining that begins with one.

    :param or_none: what None means, where it is valid
    """
    if value is not None or or_none is None:
        scheduled_value(name, value, 1.0, or_none, may_be_negative)


def scheduled_value(
    name: str, schedule: object, progress: float, or_none: str | None = None, may_be_negative: bool = False
) -> float:
    """What a number, or a function of the progress remaining, says.

    :param name: of the argument
    :param progress: what remains of it, from 1 to 0
    :param or_none: what None would mean instead, for the error
    :raises ValueError: for what is neither, for a function that fails, and if that is no finite number, or negative
    """
    # SB3's wrapper would take "0.1" and True for numbers
    said: object = schedule.value_schedule if isinstance(schedule, FloatSchedule) else schedule
    cause: Exception | None = None
    is_function = callable(said) and not isinstance(said, type)
    if is_function:
        try:
            said = said(progress)  # type: ignore[operator]
            if isinstance(said, (np.ndarray, th.Tensor)) and said.ndim == 0:
                said = said.item()
        except Exception as error:
            said, cause = None, error
    if is_number(said) and math.isfinite(said) and (may_be_negative or said >= 0):
        return float(said)
    but = f", which is {said!r} at {progress:g}" if is_function else ""
    but = f", which fails at {progress:g} with {type(cause).__name__}: {cause}" if cause is not None else but
    raise ValueError(
        f"{name} must be a number{'' if may_be_negative else ' >= 0'}, or a function from the progress remaining "
        f"(from 1 to 0) to one{f', or None for {or_none}' if or_none else ''}, got {schedule!r}{but}"
    ) from cause


def check_bool(name: str, value: object) -> None:
    """Refuse what is neither True nor False."""
    if not isinstance(value, (bool, np.bool_)):
        raise ValueError(f"{name} must be True or False, got {value!r}")


def check_int(name: str, value: object, least: int, or_none: bool = False) -> None:
    """Refuse what is not an integer from some on (or None, where that means something), or no machine's."""
    if or_none and value is None:
        return
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)) or not least <= value <= sys.maxsize:
        raise ValueError(f"{name} must be an integer >= {least}{' or None' if or_none else ''}, got {value!r}")


def check_positive_int(name: str, value: object, or_none: bool = False) -> None:
    """Refuse what is not an integer of at least 1 (or None, where that means something)."""
    check_int(name, value, 1, or_none)


def is_all_finite(array: np.ndarray) -> bool:
    """Whether every number of an array is finite."""
    # A finite sum of squares settles it for few numbers (for many it would start threads of its own); an infinite one
    # may only have overflowed
    return (array.size <= MAX_DOT_SIZE and math.isfinite(np.vdot(array, array))) or bool(np.isfinite(array).all())


def check_finite(
    what: str, values: np.ndarray | dict[str, np.ndarray], n_envs: int, step: int, first_env: int = 0
) -> None:
    """Refuse NaN and infinity from an environment, and name the environment.

    :param values: ``(n_envs, ...)`` array, or a dictionary of such
    :param step: the time step to name, in steps over all environments
    :param first_env: the number of the first of the environments
    """
    for given in values.values() if isinstance(values, dict) else (values,):
        array = np.asarray(given)
        if array.dtype.kind != "f" or is_all_finite(array):
            continue
        bad = ~np.isfinite(array).reshape(n_envs, -1).all(axis=1)
        env = int(np.flatnonzero(bad)[0])
        raise ValueError(
            f"{what} of environment {first_env + env} at time step {step} is not finite: {array[env]}. The model is as "
            "it was before this rollout and can be saved; mend the environment (VecCheckNan finds the action that led "
            "there)."
        )
