"""What a rollout buffer knows of episodes that go on from one rollout into the next."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from sb3_pg.rollout.segments import Segments, find_segments
from sb3_pg.rollout.timeline import Carried, Timeline


@dataclass(frozen=True)
class Running:
    """The episodes that are running when a rollout begins.

    :param finished: ``(n_envs,)`` whole episodes of each environment that wait for the others' to be finished
    :param elapsed: ``(n_envs,)`` steps of the running episode before the rollout
    :param seen_from_start: ``(n_envs,)`` bool, whether the running episode was seen from its beginning
    :param resumes: ``(n_envs,)`` bool, whether the rollout's first row counts as a beginning
    :param carried: the rows that wait for the end of their episode
    """

    finished: np.ndarray
    elapsed: np.ndarray
    seen_from_start: np.ndarray
    resumes: np.ndarray
    carried: Carried | None = None

    @classmethod
    def nothing(cls, n_envs: int) -> Running:
        """Nothing is known, because the rollout does not continue what came before it."""
        zeros, false = np.zeros(n_envs, dtype=np.int64), np.zeros(n_envs, dtype=bool)
        return cls(finished=zeros, elapsed=zeros, seen_from_start=false, resumes=false)


class FoundEpisodes:
    """The episodes of a rollout and of what waited for it: which are used now, and which wait on.

    :param timeline: all rows
    :param edge_values: ``(n_envs,)`` the critic's value of what follows the rollout
    :param finished: ``(n_envs,)`` whole episodes that each environment has finished, those before the rollout included
    :param whole_only: episodes cut by the rollout's edge are not used
    :param waits: they wait for their end
    :param per_env: how many of each environment make a batch, None for all there are
    :param cut_length: episodes of that many steps are not waited for any longer
    """

    def __init__(
        self,
        timeline: Timeline,
        edge_values: np.ndarray,
        finished: np.ndarray,
        whole_only: bool,
        waits: bool,
        per_env: int | None,
        cut_length: int,
    ):
        self.timeline = timeline
        self._waits = waits
        self._finished = finished
        self._resumes = np.zeros(timeline.n_envs, dtype=bool)
        self.segments = find_segments(timeline.env, timeline.marks["start"], timeline.marks["done"])
        if waits:
            self.segments = self._cut_endless(edge_values, cut_length)
        self._quota_filled = per_env is not None and bool((self._finished >= per_env).all())
        whole = self.segments.whole & self.segments.complete
        #: ``(n_segments,)`` bool, which are used in this update
        self.used = whole if whole_only else np.ones(len(whole), dtype=bool)
        if per_env is not None:
            # The first ones of each environment: which of them ended first must not matter, short ones would win.
            self.used = whole & (self.segments.rank_within_env(whole) < per_env) & self._quota_filled
        self._waiting = self._find_waiting(per_env)

    def _cut_endless(self, edge_values: np.ndarray, cut_length: int) -> Segments:
        """End the episodes that have waited too long, as a time limit would; their rest will count as an episode."""
        segments, marks = self.segments, self.timeline.marks
        endless = segments.whole & segments.open & (segments.lengths >= cut_length)
        last, envs = segments.last[endless], segments.env[endless]
        marks["done"][last] = marks["truncated"][last] = True
        marks["terminal_values"][last] = edge_values[envs]
        self._resumes[envs] = True
        self._finished = self._finished + np.bincount(envs, minlength=self.timeline.n_envs)
        return replace(segments, complete=segments.complete | endless, open=segments.open & ~endless)

    def _find_waiting(self, per_env: int | None) -> np.ndarray:
        """``(n_segments,)`` bool, which have begun, are not used yet, and will be."""
        segments = self.segments
        if not self._waits or self._quota_filled:
            return np.zeros(len(segments.first), dtype=bool)
        waiting: np.ndarray = segments.whole & ~self.used & (segments.complete | segments.open)
        return waiting if per_env is None else waiting & (segments.rank_within_env(waiting) < per_env)

    @property
    def used_source(self) -> np.ndarray:
        """``(n_rows,)`` where the rows in use are in the rollout, negative for those that waited."""
        return self.timeline.source[self.segments.rows(self.used)]

    @property
    def n_waiting_rows(self) -> int:
        """Steps that wait for the end of their episode."""
        return int(self.segments.lengths[self._waiting].sum())

    def running(self, seen_from_start: np.ndarray) -> Running:
        """What the next rollout has to know.

        :param seen_from_start: ``(n_envs,)`` bool, whether each running episode was seen from its beginning
        """
        marks, last = self.timeline.marks, self.segments.env_last
        keeps = self._waits and not self._quota_filled
        return Running(
            finished=self._finished if keeps else np.zeros_like(self._finished),
            elapsed=marks["step"][last] + 1,
            seen_from_start=seen_from_start if keeps else marks["done"][last],
            resumes=self._resumes,
            carried=self.timeline.kept(self.segments.rows(self._waiting)) if self._waiting.any() else None,
        )
