"""Data that travels between buffer, estimators and algorithms."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Literal

import torch as th

from sb3_pg.estimators import EpisodeIndex

Observations = th.Tensor | dict[str, th.Tensor]
Returns = Literal["total", "reward_to_go", "gae"]
IncompleteEpisodes = Literal["carry", "bootstrap", "truncate", "drop"]


@dataclass(frozen=True)
class EpisodeBatch:
    """The episodes of one update: facts as they were collected, and what the estimators made of them.

    Rows are flat, episode after episode: ``n_rows`` steps of ``n_episodes`` episodes, laid out as ``episodes`` says.

    :param episodes: which episode and which step of it a row is.
    :param observations: ``(n_rows, *obs_shape)``, or a dictionary of such.
    :param actions: ``(n_rows,)`` integers for Discrete, else ``(n_rows, action_dim)``.
    :param rewards: ``(n_rows,)`` as the environment gave them.
    :param behaviour_log_prob: ``(n_rows,)`` log-prob under the parameters that sampled the action.
    :param values: ``(n_rows,)`` V(s) under the parameters that collected the row; 0 without a critic.
    :param carried: ``(n_rows,)`` bool, True where an earlier policy collected the row.
    :param terminated: ``(n_episodes,)`` bool, the MDP ended.
    :param truncated: ``(n_episodes,)`` bool, a time limit ended the episode. Neither: the rollout's edge cut it.
    :param returns: ``(n_rows,)`` what the step earned, by the algorithm's ``returns``.
    :param advantages: ``(n_rows,)`` the same less the baseline.
    :param value_targets: ``(n_rows,)`` what a critic should have said.
    """

    episodes: EpisodeIndex
    observations: Observations
    actions: th.Tensor
    rewards: th.Tensor
    behaviour_log_prob: th.Tensor
    values: th.Tensor
    carried: th.Tensor
    terminated: th.Tensor
    truncated: th.Tensor
    returns: th.Tensor
    advantages: th.Tensor
    value_targets: th.Tensor

    def observations_at(self, rows: slice | th.Tensor) -> Observations:
        """The observations of some rows."""
        if isinstance(self.observations, dict):
            return {key: value[rows] for key, value in self.observations.items()}
        return self.observations[rows]

    def micro_batches(self, size: int | None) -> Iterator[slice]:
        """All rows in order, in pieces of at most ``size`` rows; in one piece if None."""
        return pieces(self.episodes.n_rows, size)

    def each_episode(self) -> Iterator[slice]:
        """The rows of one episode after the other."""
        for end, length in zip(self.episodes.last_row.tolist(), self.episodes.lengths.tolist(), strict=True):
            yield slice(end + 1 - length, end + 1)


#: Rows of a pass on the CPU: more are slower, since their activations leave the cache.
CACHE_ROWS = 4096


def pieces(n_rows: int, size: int | None) -> Iterator[slice]:
    """The rows 0 .. n_rows - 1 in pieces of at most ``size``; in one piece if None."""
    size = n_rows if size is None else size
    for begin in range(0, n_rows, size):
        yield slice(begin, min(begin + size, n_rows))


#: A baseline of the user's: from the batch (whose ``advantages`` are the plain returns then) to ``(n_rows,)`` values.
Baseline = Callable[[EpisodeBatch], th.Tensor]
