"""What an action mask has to look like: sb3-contrib's convention, True for what is allowed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from gymnasium import spaces

#: Kinds of NumPy's types that a mask may have.
NUMBERS = "biuf"


def can_be_masked(action_space: spaces.Space[Any]) -> bool:
    """Whether there is a finite number of actions, in one dimension or in several."""
    if isinstance(action_space, spaces.MultiBinary):
        return not isinstance(action_space.n, tuple)
    if isinstance(action_space, spaces.MultiDiscrete):
        return action_space.nvec.ndim == 1
    return isinstance(action_space, spaces.Discrete)


def mask_sizes(action_space: spaces.Space[Any]) -> list[int]:
    """How many values each dimension of an action takes: a mask has an entry for each value, dimension by dimension."""
    if isinstance(action_space, spaces.Discrete):
        return [int(action_space.n)]
    if isinstance(action_space, spaces.MultiDiscrete):
        return [int(n) for n in action_space.nvec]
    if isinstance(action_space, spaces.MultiBinary):
        return [2] * int(np.prod(action_space.n))
    raise ValueError(f"Action masks need Discrete, MultiDiscrete or MultiBinary actions, got {action_space}")


def check_masks(given: Any, sizes: Sequence[int]) -> np.ndarray:
    """The masks of some rows as truth values.

    :param given: of each row, an array or a nest of lists with ``sum(sizes)`` truth values, or zeros and ones
    :param sizes: as :func:`mask_sizes` gives them
    :return: ``(n_rows, sum(sizes))`` bool
    :raises ValueError: naming the first environment whose mask has another shape, other values, or allows nothing
    """
    size = sum(sizes)
    is_array = (
        isinstance(given, np.ndarray) and given.ndim > 1 and given[0].size == size and given.dtype.kind in NUMBERS
    )
    masks = given.reshape(len(given), size) if is_array else _stacked(given, sizes)
    if masks.dtype != np.bool_:
        is_odd = ~((masks == 0) | (masks == 1)).all(axis=1)
        if is_odd.any():
            env = int(is_odd.argmax())
            raise ValueError(
                f"The action mask of environment {env} must be of True and False (or 1 and 0), got {masks[env]}: write "
                "True for each action that is allowed"
            )
        masks = masks.astype(bool)
    first = np.cumsum([0, *sizes[:-1]])
    allows = np.logical_or.reduceat(masks, first, axis=1)
    if not allows.all():
        env, dimension = (int(one[0]) for one in np.nonzero(~allows))
        where = f" in dimension {dimension}" if len(sizes) > 1 else ""
        raise ValueError(
            f"The action mask of environment {env} allows no action{where}, got {masks[env].astype(int)}: leave at "
            "least one True, or end the episode where there is nothing to choose"
        )
    return masks


def rows_of_masks(given: Any, sizes: Sequence[int]) -> Any:
    """Masks as somebody gave them by hand, of one observation or of several, as a sequence of one for each."""
    try:
        array = np.asarray(given)
    except ValueError:  # of different lengths
        return given
    return [array] if array.ndim < 2 or array.size == sum(sizes) else array


def _stacked(given: Any, sizes: Sequence[int]) -> np.ndarray:
    """``(n_rows, sum(sizes))`` of masks that are not all arrays of one shape, or not of the right one."""
    rows = []
    for env, one in enumerate(given):
        try:
            row = np.asarray(one)
        except ValueError:  # a list of lists of different lengths
            row = np.asarray(None)
        if row.size != sum(sizes) or row.dtype.kind not in NUMBERS:
            expected = f"{sum(sizes)} truth values" + (f", for {'+'.join(map(str, sizes))} actions" * (len(sizes) > 1))
            got = f"an array of shape {row.shape}" if row.dtype.kind in NUMBERS else repr(one)
            raise ValueError(
                f"The action mask of environment {env} must have {expected}, got {got}: return one for each action "
                "from action_masks(), dimension after dimension"
            )
        rows.append(row.reshape(-1))
    return np.stack(rows)
