"""What a policy that remembers knew where a rollout began: of the episodes whose beginning is not in their batch."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

import numpy as np


class Memories:
    """Memories by a number each, with which the row that they were there before is marked; 0 is nothing at all."""

    def __init__(self) -> None:
        self._by_number: dict[int, dict[str, np.ndarray]] = {}
        # What a memory of nothing looks like
        self._nothing: dict[str, np.ndarray] = {}
        # Of each environment's before this rollout; none yet, or of a policy that does not remember
        self._numbers = np.zeros(0, dtype=np.int64)

    def begin(self, memory: Mapping[str, np.ndarray]) -> None:
        """Keep what was known before the first step of a rollout.

        :param memory: name -> ``(n_envs, ...)``
        """
        self._nothing = {name: np.zeros_like(part[0]) for name, part in memory.items()}
        n_envs = len(next(iter(memory.values())))
        self._numbers = max(self._by_number, default=0) + 1 + np.arange(n_envs)
        for env, number in enumerate(self._numbers.tolist()):
            self._by_number[number] = {name: part[env] for name, part in memory.items()}

    def marks(self, n_steps: int) -> np.ndarray | None:
        """``(n_steps, n_envs)`` the marks of a rollout's rows; None where nothing began it."""
        if len(self._numbers) == 0:
            return None
        marks = np.zeros((n_steps, len(self._numbers)), dtype=np.int64)
        marks[0] = self._numbers
        return marks

    def at(self, marks: np.ndarray) -> dict[str, np.ndarray]:
        """Name -> ``(n, ...)`` what was known before rows with these marks.

        :param marks: ``(n,)``
        """
        # A memory of another kind, of a policy that stood in the place of this one, says nothing to it
        kind = _kind(self._nothing)
        known = [self._by_number.get(number, self._nothing) for number in marks.tolist()]
        known = [one if _kind(one) == kind else self._nothing for one in known]
        return {
            name: np.stack([one[name] for one in known]) if known else np.zeros((0, *part.shape), part.dtype)
            for name, part in self._nothing.items()
        }

    def kept(self, marks: np.ndarray | None) -> Memories:
        """These, but for all that no row waits with: for the next rollout.

        :param marks: ``(n_rows,)`` of those that wait
        """
        waiting = set() if marks is None else set(marks.tolist())
        other = copy.copy(self)
        other._by_number = {number: one for number, one in self._by_number.items() if number in waiting}
        other._numbers = self._numbers[:0]
        return other


def _kind(memory: Mapping[str, np.ndarray]) -> dict[str, tuple[tuple[int, ...], np.dtype[Any]]]:
    return {name: (part.shape, part.dtype) for name, part in memory.items()}
