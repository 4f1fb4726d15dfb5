"""Batches of the past that are used again, each with the policy that sampled it."""

from __future__ import annotations

import dataclasses
import io
import pathlib
import pickle
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import torch as th
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.save_util import load_from_pkl, save_to_pkl

from sb3_pg.data.batch import Credit, EpisodeBatch, concatenate, concatenate_credit
from sb3_pg.data.distributed import all_sum
from sb3_pg.data.minibatches import whole_batch
from sb3_pg.estimators import log_mixture, path_log_ratio
from sb3_pg.files import path_for_saving, whole_file
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


def save_history(path: str | pathlib.Path | io.BufferedIOBase, history: BatchHistory, verbose: int = 0) -> None:
    """Write it as SB3 writes replay buffers, from the CPU; a file by that name appears whole or not at all.

    Of the policies it holds the ``state_dict``: whatever else they are, the model has that goes on with it.
    """
    portable = BatchHistory(history.size)
    portable._next_number = history._next_number
    portable._past.extend(_for_file(one) for one in history)
    if isinstance(path, io.BufferedIOBase):
        save_to_pkl(path, portable, verbose)
        return
    with whole_file(path_for_saving(path, "pkl")) as unfinished, unfinished.open("wb") as file:
        save_to_pkl(file, portable, verbose)


def _for_file(one: PastBatch) -> PastBatch:
    state: Any = one.policy.state_dict()
    return cast(PastBatch, _moved(dataclasses.replace(one, policy=state), "cpu"))


def load_history(
    path: str | pathlib.Path | io.BufferedIOBase, policy: ActorCriticPolicy, size: int, verbose: int = 0
) -> BatchHistory:
    """Read what :func:`save_history` wrote, onto the device of the policy that goes on with it.

    :param size: how many batches to keep of it
    :raises ValueError: for a file that holds something else, or batches of another network
    """
    try:
        history = load_from_pkl(path, verbose)
    except (EOFError, pickle.UnpicklingError) as error:
        raise ValueError(f"{path} is cut off, or no pickle: {error}") from error
    except (ImportError, AttributeError) as error:
        raise ValueError(f"{path} was written by another version of this package: {error}") from error
    if not isinstance(history, BatchHistory):
        raise ValueError(
            f"{path} holds a {type(history).__name__}: give a file that save_replay_buffer of OffPolicyISPG wrote"
        )
    loaded = BatchHistory(size)
    loaded._next_number = history._next_number
    # Newest first: if there are too many, the oldest go
    for one in list(history)[:size]:
        state: Any = one.policy
        if _shapes(state) != _shapes(policy.state_dict()):
            raise ValueError(f"{path} holds batches of another network: give the file that was saved with this model")
        past = frozen_copy(policy)
        past.load_state_dict(state)
        loaded._past.append(dataclasses.replace(_moved(one, policy.device), policy=past))
    loaded._forget_policies()
    return loaded


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


def _shapes(state: dict[str, Any]) -> dict[str, Any]:
    return {name: getattr(value, "shape", None) for name, value in state.items()}


def _moved(value: Any, device: th.device | str) -> Any:
    """A copy of a nest of tensors on another device."""
    if isinstance(value, th.Tensor):
        return value.to(device)
    if isinstance(value, dict):
        return {key: _moved(one, device) for key, one in value.items()}
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: _moved(getattr(value, field.name), device) for field in dataclasses.fields(value)}
        return type(value)(**fields)
    return value
