"""What SB3's Monitor tells of its environment, counted for all environments at once."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np


class EpisodeRecord:
    """The episodes of one environment, under the names that Monitor has for them."""

    def __init__(self, t_start: float) -> None:
        self.t_start = t_start
        self.total_steps = 0
        self.episode_returns: list[float] = []
        self.episode_lengths: list[int] = []
        self.episode_times: list[float] = []

    def get_total_steps(self) -> int:
        """The number of steps, of all episodes."""
        return self.total_steps

    def get_episode_rewards(self) -> list[float]:
        """The return of each episode."""
        return self.episode_returns

    def get_episode_lengths(self) -> list[int]:
        """The length of each episode."""
        return self.episode_lengths

    def get_episode_times(self) -> list[float]:
        """When each episode ended, in seconds."""
        return self.episode_times


#: What can be asked of a record, as of a Monitor
RECORDED = frozenset(name for name in (*vars(EpisodeRecord), *vars(EpisodeRecord(0))) if not name.startswith("_"))


class EpisodeStatistics:
    """Counts rewards and steps of all environments."""

    def __init__(self, num_envs: int) -> None:
        t_start = time.time()
        self._t_start = t_start
        self._records = [EpisodeRecord(t_start) for _ in range(num_envs)]
        self._returns = np.zeros(num_envs)
        self._lengths = np.zeros(num_envs, dtype=np.int64)
        self._total_steps = 0
        # Ended episodes, as they came: thousands of environments are told of one by one only if somebody asks.
        self._unread: list[tuple[Sequence[int], list[float], list[int], float]] = []

    def reset(self) -> None:
        """Forget the episodes under way."""
        self._returns[:] = 0
        self._lengths[:] = 0

    def step(self, rewards: np.ndarray) -> None:
        """Count a step of all, with rewards ``(n_envs,)``."""
        self._returns += rewards
        self._lengths += 1
        self._total_steps += 1

    def end(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        """Note the end of an episode of each of these, and return what Monitor writes to ``infos["episode"]``."""
        now = time.time() - self._t_start
        returns, lengths = self._returns[indices].tolist(), self._lengths[indices].tolist()
        self._returns[indices] = 0
        self._lengths[indices] = 0
        self._unread.append((indices, returns, lengths, now))
        t = round(now, 6)
        return [{"r": round(r, 6), "l": length, "t": t} for r, length in zip(returns, lengths, strict=True)]

    def of(self, idx: int) -> EpisodeRecord:
        """The record of one environment, up to date."""
        for indices, returns, lengths, now in self._unread:
            for ended, episode_return, length in zip(indices, returns, lengths, strict=True):
                record = self._records[ended]
                record.episode_returns.append(episode_return)
                record.episode_lengths.append(length)
                record.episode_times.append(now)
        self._unread.clear()
        self._records[idx].total_steps = self._total_steps
        return self._records[idx]
