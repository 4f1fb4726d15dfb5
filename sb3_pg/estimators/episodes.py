"""Ragged batches: which episode a row belongs to, and sums over an episode.

A batch is flat, episode after episode. ``EpisodeIndex`` is all that the estimators know about its layout, so that
episodes of unequal length need no padding and no mask.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch as th


@dataclass(frozen=True)
class EpisodeIndex:
    """Layout of a flat batch of ``n_episodes`` episodes with ``n_rows`` steps in total.

    :param lengths: ``(n_episodes,)`` number of steps T_i of each episode, at least 1.
    :param episode: ``(n_rows,)`` the episode i of each row, non-decreasing.
    :param step: ``(n_rows,)`` the step t of each row within its episode, from 0. (An episode whose beginning is not
        in the batch may start at a later t; everything that sums over an episode only sees the rows in the batch.)
    :raises ValueError: if the three do not describe the same batch.
    """

    lengths: th.Tensor
    episode: th.Tensor
    step: th.Tensor

    def __post_init__(self) -> None:
        if self.lengths.ndim != 1 or bool((self.lengths < 1).any()):
            raise ValueError(f"lengths must be a vector of integers >= 1, got {self.lengths}")
        check_rows("episode", self.episode, int(self.lengths.sum()))
        check_rows("step", self.step, len(self.episode))
        if not th.equal(self.episode, th.repeat_interleave(self.lengths)):
            raise ValueError(
                f"episode must say 0 for lengths[0] rows, then 1 for lengths[1] rows, ..., got {self.episode}"
            )
        same = self.episode[1:] == self.episode[:-1]
        if not th.equal(self.step[1:][same], self.step[:-1][same] + 1):
            raise ValueError(f"step must grow by 1 from row to row of an episode, got {self.step}")

    @classmethod
    def from_lengths(cls, lengths: th.Tensor, first_step: th.Tensor | None = None) -> EpisodeIndex:
        """Build the index of episodes that lie one after the other.

        :param lengths: ``(n_episodes,)`` steps of each episode.
        :param first_step: ``(n_episodes,)`` the t of each episode's first row; 0 if None.
        """
        lengths = lengths.long()
        episode = th.repeat_interleave(th.arange(len(lengths), device=lengths.device), lengths)
        begin = th.cumsum(lengths, 0) - lengths
        offset = begin if first_step is None else begin - first_step.long()
        step = th.arange(len(episode), device=lengths.device) - offset[episode]
        return cls(lengths=lengths, episode=episode, step=step)

    @property
    def n_episodes(self) -> int:
        """Number of episodes N."""
        return len(self.lengths)

    @property
    def n_rows(self) -> int:
        """Number of steps, sum_i T_i."""
        return len(self.episode)

    @property
    def first_row(self) -> th.Tensor:
        """``(n_episodes,)`` the row of each episode's first step."""
        return th.cumsum(self.lengths, 0) - self.lengths

    @property
    def last_row(self) -> th.Tensor:
        """``(n_episodes,)`` the row of each episode's last step."""
        return th.cumsum(self.lengths, 0) - 1

    @property
    def position(self) -> th.Tensor:
        """``(n_rows,)`` rows since the episode's first row in the batch, from 0."""
        return th.arange(self.n_rows, device=self.lengths.device) - self.first_row[self.episode]

    @property
    def remaining(self) -> th.Tensor:
        """``(n_rows,)`` rows that follow in the same episode, 0 at the last one."""
        return self.lengths[self.episode] - 1 - self.position


def check_rows(name: str, values: th.Tensor, n_rows: int) -> None:
    """Refuse anything but a vector with one entry a row: ``(n,)`` against ``(n, 1)`` would broadcast to ``(n, n)``.

    :raises ValueError: naming the argument, the shape given and the shape wanted.
    """
    if tuple(values.shape) != (n_rows,):
        hint = ", flatten it first" if values.numel() == n_rows else ""
        raise ValueError(f"{name} must have shape ({n_rows},), got {tuple(values.shape)}{hint}")


def segment_sum(values: th.Tensor, episodes: EpisodeIndex) -> th.Tensor:
    """Sum over the rows of each episode: out_i = sum_t values[i,t].

    :param values: ``(n_rows,)``
    :return: ``(n_episodes,)``
    """
    check_rows("values", values, episodes.n_rows)
    return values.new_zeros(episodes.n_episodes).index_add_(0, episodes.episode, values)


def segment_cumulative_sum(values: th.Tensor, episodes: EpisodeIndex) -> th.Tensor:
    """Sum of the rows of an episode up to and including each: y_t = x_0 + ... + x_t.

    :param values: ``(n_rows,)`` x
    :return: ``(n_rows,)`` y
    """
    check_rows("values", values, episodes.n_rows)
    backwards = EpisodeIndex.from_lengths(episodes.lengths.flip(0))
    return discounted_suffix_sum(values.flip(0), backwards, 1.0).flip(0)


def discounted_suffix_sum(values: th.Tensor, episodes: EpisodeIndex, discount: float | th.Tensor) -> th.Tensor:
    """Discounted sum of what follows in the episode: y_t = x_t + discount * y_{t+1}, with y = 0 past its end.

    By recursive doubling (Hillis & Steele 1986): after pass k every row holds the sum of its next 2^k terms, so that
    log2(longest episode) passes over the flat batch do what a loop over time would.

    :param values: ``(n_rows,)`` x
    :param discount: one for all rows, or ``(n_rows,)``: what y_{t+1} is multiplied by at row t
    :return: ``(n_rows,)`` y
    """
    check_rows("values", values, episodes.n_rows)
    if isinstance(discount, th.Tensor):
        check_rows("discount", discount, episodes.n_rows)
        factor = discount.to(values.dtype)
    else:
        factor = th.tensor(discount, dtype=th.float64)  # a number, which does not change the type of what it multiplies
    sums = values.clone()
    remaining = episodes.remaining
    span, longest = 1, int(episodes.lengths.max()) if episodes.n_episodes else 0
    while span < longest:
        here, there = (factor[:-span], factor[span:]) if factor.ndim else (factor, factor)
        following = th.where(remaining[:-span] >= span, here * sums[span:], 0.0)
        sums = th.cat([sums[:-span] + following, sums[-span:]])
        # A product that reaches beyond its episode is never used
        factor = th.cat([here * there, factor[-span:]]) if factor.ndim else here * there
        span *= 2
    return sums
