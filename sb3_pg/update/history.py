"""Batches of the past that are used again, each with the policy that sampled it."""

from __future__ import annotations

import dataclasses
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch as th
from stable_baselines3.common.policies import ActorCriticPolicy

from sb3_pg.data.batch import Credit, EpisodeBatch, concatenate, concatenate_credit
from sb3_pg.data.distributed import all_sum
from sb3_pg.data.minibatches import whole_batch
from sb3_pg.estimators import log_mixture, path_log_ratio
from sb3_pg.policies.divergence import frozen_copy
from sb3_pg.policies.passes import all_log_probs
from sb3_pg.update.vtrace import VTrace
from sb3_pg.update.weighting import WeightedSample, Weighting


@dataclass
class PastBatch:
    """A batch and its behaviour policy.

    :param batch: as it was collected; its values are today's where it is credited again
    :param credit: what its steps were credited with when it was new, or when they were last credited again
    :param policy: a frozen copy, of all that the policy was
    :param log_probs: policy's number -> ``(n_rows,)`` log-prob of this batch's actions under it
    """

    number: int
    batch: EpisodeBatch
    credit: Credit
    policy: ActorCriticPolicy
    log_probs: dict[int, th.Tensor]


class BatchHistory:
    """The last batches, and the log-prob of every action under every policy that sampled one of them.

    Memory: ``size`` batches as they were collected (observations behind VecNormalize are kept as their behaviour policy
    saw them), as many copies of the policy, and ``size`` log-probs a row.

    :param size: how many batches are kept beside the newest
    """

    def __init__(self, size: int) -> None:
        self.size = size
        self._past: deque[PastBatch] = deque(maxlen=size)
        self._next_number = 0

    @classmethod
    def of(cls, size: int, past: Sequence[PastBatch], next_number: int) -> BatchHistory:
        """What :meth:`sample` has kept elsewhere.

        :param past: the newest first; what is too much is left out
        :param next_number: of the batch that comes next
        """
        history = cls(size)
        history._past.extend(past[:size])
        history._next_number = next_number
        history._forget_policies()
        return history

    @property
    def next_number(self) -> int:
        """The number of the batch that comes next."""
        return self._next_number

    def __len__(self) -> int:
        return len(self._past)

    def __iter__(self) -> Iterator[PastBatch]:
        return iter(self._past)

    def sample(
        self,
        batch: EpisodeBatch,
        credit: Credit,
        log_prob: th.Tensor,
        policy: ActorCriticPolicy,
        weighting: Weighting,
        micro_batch_size: int | None,
        vtrace: VTrace | None = None,
    ) -> WeightedSample:
        """The newest batch and the past ones as a sample of the mixture of their policies; then keep the newest.

        A carried step of the newest batch counts as a sample of the batch that it is used in.

        :param log_prob: ``(n_rows,)`` of the newest batch under the policy as it is
        :param vtrace: credits the past batches again; None: with what they were credited with when they were new
        """
        if self.size == 0:
            return WeightedSample(batch, credit, th.zeros_like(log_prob), log_prob)
        newest = PastBatch(self._next_number, batch, credit, frozen_copy(policy), {self._next_number: log_prob})
        # Copies: what the history holds is replaced, and never written into, so that an update can be undone
        past = [dataclasses.replace(one, log_probs={**one.log_probs}) for one in self._past]
        every = [newest, *past]
        for one in every:
            for other in every:
                if other is not one and one.number not in other.log_probs:
                    rows = whole_batch(other.batch)
                    other.log_probs[one.number] = all_log_probs(one.policy, other.batch, rows, micro_batch_size)
        if vtrace is not None:
            for one in past:
                one.batch = vtrace.renewed(policy, one.batch, micro_batch_size)
                one.credit = vtrace.credit(one.batch, one.log_probs[newest.number])
        sample = WeightedSample(
            concatenate([one.batch for one in every]),
            concatenate_credit([one.credit for one in every]),
            _log_mixture(every, weighting),
            th.cat([one.log_probs[newest.number] for one in every]),
        )
        self._past = deque(every[: self.size], maxlen=self.size)
        self._next_number += 1
        self._forget_policies()
        return sample

    def _forget_policies(self) -> None:
        """Drop the log-probs under policies of which no batch is kept."""
        kept = {one.number for one in self._past}
        for one in self._past:
            one.log_probs = {number: value for number, value in one.log_probs.items() if number in kept}


def _log_mixture(every: Sequence[PastBatch], weighting: Weighting) -> th.Tensor:
    """``(n_rows,)`` see :func:`~sb3_pg.estimators.importance.log_mixture`, over the rows of all batches.

    A policy's share is that of the episodes it has drawn where the weights are of episodes, else of the rows.
    """
    index = [one.batch.episodes for one in every]
    counts = [one.n_episodes if weighting.whole_episodes else one.n_rows for one in index]
    drawn = all_sum(th.tensor(counts, dtype=th.float64))
    shares = drawn / drawn.sum()
    densities = []
    for one in every:
        behaviour = one.batch.behaviour_log_prob
        # Under its own policy a row has the log-prob it was drawn with, which a carried one has from an earlier policy
        ratios = [
            th.zeros_like(behaviour) if other is one else one.log_probs[other.number] - behaviour for other in every
        ]
        paths = [path_log_ratio(ratio, one.batch.episodes, weighting.importance) for ratio in ratios]
        densities.append(log_mixture(th.stack(paths, dim=1), shares))
    return th.cat(densities)
