"""Where episodes begin and end in a timeline of rows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Segments:
    """Runs of rows that belong to one episode, in a timeline that goes through one environment after the other.

    :param first: ``(n_segments,)`` row of the first step
    :param last: ``(n_segments,)`` row of the last step
    :param env: ``(n_segments,)`` the environment
    :param whole: ``(n_segments,)`` bool, the episode's beginning is in the timeline
    :param complete: ``(n_segments,)`` bool, the episode's end is in the timeline
    :param open: ``(n_segments,)`` bool, the environment goes on with this episode
    """

    first: np.ndarray
    last: np.ndarray
    env: np.ndarray
    whole: np.ndarray
    complete: np.ndarray
    open: np.ndarray

    @property
    def lengths(self) -> np.ndarray:
        """``(n_segments,)`` rows of each segment."""
        lengths: np.ndarray = self.last - self.first + 1
        return lengths

    @property
    def env_last(self) -> np.ndarray:
        """``(n_envs,)`` the last row of each environment."""
        rows: np.ndarray = self.last[np.append(self.env[1:] != self.env[:-1], True)]
        return rows

    def rank_within_env(self, chosen: np.ndarray) -> np.ndarray:
        """``(n_segments,)`` how many chosen segments of the same environment come before each."""
        before = np.cumsum(chosen) - chosen
        begins = np.append(True, self.env[1:] != self.env[:-1])
        rank: np.ndarray = before - before[begins][np.cumsum(begins) - 1]
        return rank

    def rows(self, chosen: np.ndarray) -> np.ndarray | slice:
        """Rows of the chosen segments, in order."""
        return slice(None) if chosen.all() else np.flatnonzero(np.repeat(chosen, self.lengths))


def find_segments(env: np.ndarray, start: np.ndarray, done: np.ndarray) -> Segments:
    """Cut a timeline into segments.

    A segment ends where its episode does, where its environment's rows do, and where the next row starts an episode
    although this one did not end (an environment that was reset from outside).

    :param env: ``(n_rows,)`` environment of each row, non-decreasing
    :param start: ``(n_rows,)`` bool, the row is the first step of an episode
    :param done: ``(n_rows,)`` bool, the row is the last step of an episode
    """
    env_ends = np.append(env[1:] != env[:-1], True)
    last = np.flatnonzero(done | env_ends | np.append(start[1:], True))
    first = np.append(0, last[:-1] + 1)
    return Segments(
        first=first,
        last=last,
        env=env[last],
        whole=start[first],
        complete=done[last],
        open=env_ends[last] & ~done[last],
    )
