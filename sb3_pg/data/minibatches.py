"""The parts of a batch that a gradient step looks at: all of it, some of its rows, or some of its episodes."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch as th

from sb3_pg.data.batch import EpisodeBatch
from sb3_pg.data.distributed import all_count, most
from sb3_pg.estimators import EpisodeIndex

#: Rows of a pass on the CPU: more are slower, since their activations leave the cache.
CACHE_ROWS = 4096


def pieces(n_rows: int, size: int | None) -> Iterator[slice]:
    """The rows 0 .. n_rows - 1 in pieces of at most ``size``; in one piece if None, and if there are none."""
    size = n_rows if size is None else size
    for begin in range(0, n_rows, size) if n_rows else [0]:
        yield slice(begin, min(begin + size, n_rows))


@dataclass(frozen=True)
class Minibatch:
    """Some rows of a batch.

    :param rows: which, a slice or ``(n_rows,)`` indices
    :param n_rows: how many
    :param episodes: how they make whole episodes of the batch; None if they are single rows
    :param share: the part of the batch's rows, or of its episodes, that this is, over all workers
    """

    rows: slice | th.Tensor
    n_rows: int
    episodes: EpisodeIndex | None
    share: float

    def part(self, where: slice) -> Minibatch:
        """Some of its rows, as single ones."""
        rows = where if isinstance(self.rows, slice) else self.rows[where]
        n_rows = where.stop - where.start
        return Minibatch(rows, n_rows, None, self.share * n_rows / max(self.n_rows, 1))

    def pieces(self, size: int | None, whole_episodes: bool = False) -> Iterator[tuple[slice, slice | th.Tensor]]:
        """In pieces of at most ``size`` rows: where they are in the minibatch, and where in the batch.

        :param whole_episodes: no episode is taken apart, and one that is longer than ``size`` is a piece by itself
        :raises ValueError: for the whole episodes of single rows
        """
        for where in self._whole_pieces(size) if whole_episodes else pieces(self.n_rows, size):
            yield where, where if isinstance(self.rows, slice) else self.rows[where]

    def _whole_pieces(self, size: int | None) -> Iterator[slice]:
        if self.episodes is None:
            raise ValueError("Single rows have no whole episodes: cut the batch with whole_episodes=True")
        begin = end = 0
        for length in self.episodes.lengths.tolist():
            if size is not None and begin < end and end + length - begin > size:
                yield slice(begin, end)
                begin = end
            end += length
        yield slice(begin, end)


def whole_batch(batch: EpisodeBatch) -> Minibatch:
    """All rows, in order."""
    return Minibatch(slice(0, batch.n_rows), batch.n_rows, batch.episodes, 1.0)


def episodes_with(batch: EpisodeBatch, rows: th.Tensor) -> Minibatch:
    """The whole episodes that have some of the rows.

    :param rows: ``(n_rows,)`` bool, at least one True
    """
    return _take(batch.episodes, batch.episodes.episode[rows].unique().tolist())


def minibatches(batch: EpisodeBatch, batch_size: int | None, whole_episodes: bool) -> Iterator[Minibatch]:
    """Go through the batch once, in a random order, in minibatches of ``batch_size`` rows (the last may be smaller).

    As SB3's buffers do it, with a permutation of NumPy's global generator. Workers go through theirs together, one with
    fewer minibatches than another through some of no rows at the end.

    :param batch_size: None for the whole batch at once
    :param whole_episodes: episodes are not taken apart: a minibatch is closed by the episode that fills it
    """

    def size(rows: EpisodeBatch | Minibatch) -> int:
        return rows.episodes.n_episodes if whole_episodes and rows.episodes is not None else rows.n_rows

    own = list(_of_this_worker(batch, batch_size, whole_episodes))
    total = all_count(size(batch))
    for number in range(most(len(own))):
        part = own[number] if number < len(own) else _take(batch.episodes, [])
        yield replace(part, share=all_count(size(part)) / max(total, 1))


def _of_this_worker(batch: EpisodeBatch, batch_size: int | None, whole_episodes: bool) -> Iterator[Minibatch]:
    if batch_size is None or batch_size >= batch.n_rows:
        yield whole_batch(batch)
    elif whole_episodes:
        yield from _of_episodes(batch.episodes, batch_size)
    else:
        order = th.as_tensor(np.random.permutation(batch.n_rows), device=batch.episodes.step.device)
        for rows in order.split(batch_size):
            yield Minibatch(rows, len(rows), None, len(rows) / batch.n_rows)


def _of_episodes(episodes: EpisodeIndex, batch_size: int) -> Iterator[Minibatch]:
    lengths = episodes.lengths.tolist()
    chosen: list[int] = []
    for episode in np.random.permutation(episodes.n_episodes).tolist():
        chosen.append(episode)
        if sum(lengths[one] for one in chosen) >= batch_size:
            yield _take(episodes, chosen)
            chosen = []
    if chosen:
        yield _take(episodes, chosen)


def _take(episodes: EpisodeIndex, chosen: list[int]) -> Minibatch:
    which = th.as_tensor(chosen, dtype=th.long, device=episodes.lengths.device)
    index = EpisodeIndex.from_lengths(episodes.lengths[which])
    rows = episodes.first_row[which][index.episode] + index.step
    return Minibatch(rows, index.n_rows, index, len(chosen) / max(episodes.n_episodes, 1))
