"""The rows of a rollout in the order of episodes, together with those that waited for it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from sb3_pg.data.extras import absent

#: What is looked up at every row, and brought in order for all of them; the rest is gathered where it is used.
MARKS = ("start", "done", "step", "truncated", "terminal_values")
#: What the names of extras begin with.
EXTRA = "extra/"
Rows = slice | np.ndarray


@dataclass
class Carried:
    """Rows that wait for the end of their episode, one environment's after the other's.

    :param env: ``(n,)`` the environment of each
    :param fields: name -> ``(n, ...)``
    """

    env: np.ndarray
    fields: dict[str, np.ndarray]


class Timeline:
    """All rows, carried ones included, environment after environment and in the order of time.

    :param fields: name -> ``(n_steps, n_envs, ...)`` of a rollout, the :data:`MARKS` among them
    :param carried: what waited for this rollout, of the same fields
    """

    def __init__(self, fields: dict[str, np.ndarray], carried: Carried | None):
        self.n_steps, self.n_envs = fields["start"].shape
        self._fields = fields
        self._carried = carried
        #: ``(n_rows,)`` row of the rollout, counted step after step; of the n carried ones -n .. -1
        self.source = self._sources()
        #: ``(n_rows,)`` the environment
        self.env = np.repeat(np.arange(self.n_envs), self.n_steps + self._n_carried)
        everything = self._gatherer(self.source)
        #: ``(n_rows,)`` each of the marks, which may be changed
        self.marks = {name: everything(name) for name in MARKS}

    @property
    def _n_carried(self) -> np.ndarray:
        """``(n_envs,)``"""
        return np.bincount([] if self._carried is None else self._carried.env, minlength=self.n_envs)

    def _sources(self) -> np.ndarray:
        rollout = np.arange(self.n_steps * self.n_envs).reshape(self.n_steps, self.n_envs).T
        if self._carried is None:
            flat: np.ndarray = rollout.reshape(-1)
            return flat
        n_carried = len(self._carried.env)
        # An environment's carried rows come before those of its rollout, and after all of the environments before it
        source = np.empty(rollout.size + n_carried, dtype=rollout.dtype)
        source[np.arange(n_carried) + self.n_steps * self._carried.env] = np.arange(-n_carried, 0)
        first = np.cumsum(self._n_carried) + self.n_steps * np.arange(self.n_envs)
        source[first[:, None] + np.arange(self.n_steps)] = rollout
        return source

    def add(self, name: str, array: np.ndarray) -> None:
        """One more field, ``(n_steps, n_envs, ...)``; a row that waited without it has a blank there."""
        self._fields[name] = array

    def field(self, name: str) -> np.ndarray:
        """``(n_steps, n_envs, ...)`` of this rollout."""
        return self._fields[name]

    def has(self, name: str) -> bool:
        """Whether there is such a field, of this rollout's rows or of some that waited."""
        return name in self._fields or (self._carried is not None and name in self._carried.fields)

    def taker(self, rows: Rows) -> Callable[[str], np.ndarray]:
        """From a field's name to its values at some rows, ``(n, ...)``."""
        gather = self._gatherer(self.source[rows])
        return lambda name: self.marks[name][rows] if name in MARKS else gather(name)

    def kept(self, rows: Rows) -> Carried:
        """Some rows, to wait for the next rollout."""
        take = self.taker(rows)
        waited = {} if self._carried is None else self._carried.fields
        return Carried(self.env[rows], {name: take(name) for name in {**self._fields, **waited}})

    def _gatherer(self, source: np.ndarray) -> Callable[[str], np.ndarray]:
        """From a field's name to its values at what a source says."""
        old_fields = {} if self._carried is None else self._carried.fields
        old = np.flatnonzero(source < 0) if old_fields else np.empty(0, dtype=np.intp)
        old_source, new = source[old], np.maximum(source, 0) if len(old) > 0 else source

        def gather(name: str) -> np.ndarray:
            """A field at every place of the source."""
            array, waited = self._fields.get(name), old_fields.get(name)
            if array is None:  # a field of those that waited alone
                one = old_fields[name]
                array = np.full((self.n_steps, self.n_envs, *one.shape[1:]), _blank(name), dtype=one.dtype)
            # take() is several times faster than array[index] where a row has several numbers
            values = array.reshape(-1, *array.shape[2:]).take(new, axis=0)
            if len(old) > 0:
                values[old] = _blank(name) if waited is None else waited.take(old_source, axis=0)
            return values

        return gather


def _blank(name: str) -> bool | int:
    """What a row has in a field that was not there for it."""
    return absent(name.removeprefix(EXTRA)) if name.startswith(EXTRA) else 0


def by_time(name: str, array: np.ndarray, shape: tuple[int, ...], is_flat: bool) -> np.ndarray:
    """An array of a rollout, step after step.

    :param name: for the error
    :param shape: ``(n_steps, n_envs, ...)`` that it has to have
    :param is_flat: it may be ``(n_envs * n_steps, ...)``, environment after environment, as SB3's samples are laid out
    :raises ValueError: for an array of another shape, which a callback put there
    """
    n_steps, n_envs, *row_shape = shape
    if array.size == math.prod(shape):
        if array.shape[:2] == (n_steps, n_envs):
            return array.reshape(shape)
        if is_flat and len(array) == n_envs * n_steps:
            rows: np.ndarray = array.reshape(n_envs, n_steps, *row_shape).swapaxes(0, 1)
            return rows
    raise ValueError(f"{name} must be an array of shape {shape}, a row for each of n_steps, got {array.shape}")
