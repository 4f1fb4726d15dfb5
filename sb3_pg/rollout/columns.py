"""SB3's columns of a rollout buffer, for callbacks and for SB3's own ``train()``: filled when somebody looks."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Generator

import numpy as np
from stable_baselines3.common.buffers import RolloutBuffer
from stable_baselines3.common.type_aliases import RolloutBufferSamples


class ColumnsOnDemand(RolloutBuffer):
    """A rollout buffer whose ``advantages`` and ``returns`` are computed at the first look.

    What they said then is remembered in :attr:`shown`: what a callback makes of them counts. The arrays lie where
    SB3's own buffers have them, in the object's dictionary, under the names of the properties.
    """

    #: What the columns said, ``(buffer_size, n_envs)`` each; None if nobody has looked at this rollout's yet.
    shown: dict[str, np.ndarray] | None = None

    @abstractmethod
    def _columns(self) -> dict[str, np.ndarray] | None:
        """The columns to show, None before the rollout is finished."""

    @abstractmethod
    def _in_use(self) -> np.ndarray | None:
        """``(buffer_size, n_envs)`` bool, which rows an update may use; None for all."""

    @property
    def advantages(self) -> np.ndarray:
        """``(buffer_size, n_envs)`` returns less the baseline; 0 where a row is not used in this update."""
        return self._column("advantages")

    @advantages.setter
    def advantages(self, value: np.ndarray) -> None:
        self._set_column("advantages", value)

    @property
    def returns(self) -> np.ndarray:
        """``(buffer_size, n_envs)`` what a critic should have said; what it said where a row is not used."""
        return self._column("returns")

    @returns.setter
    def returns(self, value: np.ndarray) -> None:
        self._set_column("returns", value)

    def _column(self, name: str) -> np.ndarray:
        self._show()
        column: np.ndarray = self.__dict__[name]
        return column

    def _set_column(self, name: str, value: np.ndarray) -> None:
        self._show()
        self.__dict__[name] = value

    def _show(self) -> None:
        if self.shown is None and (columns := self._columns()) is not None:
            self.shown = {name: column.copy() for name, column in columns.items()}
            self.__dict__.update(columns)

    def get(self, batch_size: int | None = None) -> Generator[RolloutBufferSamples, None, None]:
        """Samples of the rows in use.

        :raises ValueError: if there is none
        """
        self._show()
        in_use = self._in_use()
        return super().get(batch_size) if in_use is None else self._samples_in_use(in_use, batch_size)

    def _samples_in_use(
        self, in_use: np.ndarray, batch_size: int | None
    ) -> Generator[RolloutBufferSamples, None, None]:
        if not in_use.any():
            raise ValueError(
                f"No episode began and ended within n_steps={self.buffer_size}, and incomplete_episodes='drop' uses no "
                "other: raise n_steps, or write incomplete_episodes='bootstrap' or 'truncate'"
            )
        next(super().get(1))  # lays the columns out flat, environment after environment
        rows = np.random.permutation(np.flatnonzero(in_use.swapaxes(0, 1).reshape(-1)))
        size = len(rows) if batch_size is None else batch_size
        for begin in range(0, len(rows), size):
            yield self._get_samples(rows[begin : begin + size])
