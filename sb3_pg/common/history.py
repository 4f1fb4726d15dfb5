"""Batches of the past that are used again, each with the policy that sampled it."""

from __future__ import annotations

import dataclasses
import io
import pathlib
import pickle
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch as th
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.save_util import load_from_pkl, save_to_pkl

from sb3_pg.common.minibatches import whole_batch
from sb3_pg.common.passes import evaluate
from sb3_pg.common.type_aliases import EpisodeBatch
from sb3_pg.common.weighting import WeightedSample, Weighting
from sb3_pg.estimators import EpisodeIndex, log_mixture, path_log_ratio


@dataclass
class PastBatch:
    """A batch and its behaviour policy.

    :param policy: the policy's ``state_dict``
    :param log_probs: policy's number -> ``(n_rows,)`` log-prob of this batch's actions under it
    """

    number: int
    batch: EpisodeBatch
    policy: dict[str, Any]
    log_probs: dict[int, th.Tensor]


class BatchHistory:
    """The last batches, and the log-prob of every action under every policy that sampled one of them.

    Memory: ``size`` batches as they were collected (observations behind VecNormalize are kept as their behaviour policy
    saw them), as many copies of the policy's parameters, and ``size`` log-probs a row.

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

    def moved(self, device: th.device | str, size: int | None = None) -> BatchHistory:
        """The same on another device, with room for another number of batches: the oldest go if there are too many."""
        history = BatchHistory(self.size if size is None else size)
        history._next_number = self._next_number
        # Newest first, and a full deque lets go at its other end
        history._past.extendleft(reversed([_moved(one, device) for one in self._past][: history.size]))
        history._forget_policies()
        return history

    def sample(
        self,
        batch: EpisodeBatch,
        log_prob: th.Tensor,
        frozen: ActorCriticPolicy,
        weighting: Weighting,
        micro_batch_size: int | None,
    ) -> WeightedSample:
        """The newest batch and the past ones as a sample of the mixture of their policies; then keep the newest.

        A carried step of the newest batch counts as a sample of the batch that it is used in.

        :param log_prob: ``(n_rows,)`` of the newest batch under the policy as it is
        :param frozen: a copy of the policy as it is; it serves here to evaluate the past ones, and has the newest's
            parameters again in the end
        """
        if self.size == 0:
            return WeightedSample(batch, th.zeros_like(log_prob), log_prob)
        newest = PastBatch(self._next_number, batch, _copy(frozen.state_dict()), {})
        every = [newest, *self._past]
        for one in self._past:
            one.log_probs[newest.number] = evaluate(frozen, one.batch, whole_batch(one.batch), micro_batch_size)
        for one in self._past:
            frozen.load_state_dict(one.policy)
            for other in every:
                if other is not one and one.number not in other.log_probs:
                    rows = whole_batch(other.batch)
                    other.log_probs[one.number] = evaluate(frozen, other.batch, rows, micro_batch_size)
        frozen.load_state_dict(newest.policy)
        newest.log_probs[newest.number] = log_prob
        sample = WeightedSample(
            concatenate([one.batch for one in every]),
            _log_mixture(every, weighting),
            th.cat([one.log_probs[newest.number] for one in every]),
        )
        self._keep(newest)
        return sample

    def _keep(self, newest: PastBatch) -> None:
        # Later it is as old as the others are now
        newest.batch = dataclasses.replace(newest.batch, carried=th.ones_like(newest.batch.carried))
        self._past.appendleft(newest)
        self._next_number += 1
        self._forget_policies()

    def _forget_policies(self) -> None:
        """Drop the log-probs under policies of which no batch is kept."""
        kept = {one.number for one in self._past}
        for one in self._past:
            one.log_probs = {number: value for number, value in one.log_probs.items() if number in kept}


def save_history(path: str | pathlib.Path | io.BufferedIOBase, history: BatchHistory, verbose: int = 0) -> None:
    """Write it as SB3 writes replay buffers, from the CPU; a file by that name appears whole or not at all."""
    portable = history.moved("cpu")
    if isinstance(path, io.BufferedIOBase):
        save_to_pkl(path, portable, verbose)
        return
    path = pathlib.Path(path)
    path = path if path.suffix else path.with_suffix(".pkl")
    unfinished = path.with_name(f".{path.stem}.part.pkl")
    try:
        save_to_pkl(unfinished, portable, verbose)
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


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
    if not isinstance(history, BatchHistory):
        raise ValueError(
            f"{path} holds a {type(history).__name__}: give a file that save_replay_buffer of OffPolicyISPG wrote"
        )
    for one in history:
        if _shapes(one.policy) != _shapes(policy.state_dict()):
            raise ValueError(f"{path} holds batches of another network: give the file that was saved with this model")
    return history.moved(policy.device, size)


def _log_mixture(every: Sequence[PastBatch], weighting: Weighting) -> th.Tensor:
    """``(n_rows,)`` see :func:`~sb3_pg.estimators.importance.log_mixture`, over the rows of all batches.

    A policy's share is that of the episodes it has drawn where the weights are of episodes, else of the rows.
    """
    index = [one.batch.episodes for one in every]
    counts = [one.n_episodes if weighting.whole_episodes else one.n_rows for one in index]
    shares = th.tensor(counts, dtype=th.float64) / sum(counts)
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


def concatenate(batches: Sequence[EpisodeBatch]) -> EpisodeBatch:
    """One batch of the episodes of several."""
    if len(batches) == 1:
        return batches[0]
    fields = {field.name: [getattr(one, field.name) for one in batches] for field in dataclasses.fields(EpisodeBatch)}
    index: list[EpisodeIndex] = fields.pop("episodes")
    lengths = th.cat([one.lengths for one in index])
    first_step = th.cat([one.step[one.first_row] for one in index])
    joined = {name: _join(values) for name, values in fields.items()}
    return EpisodeBatch(episodes=EpisodeIndex.from_lengths(lengths, first_step), **joined)


def _join(values: list[Any]) -> Any:
    if isinstance(values[0], dict):
        return {key: th.cat([one[key] for one in values]) for key in values[0]}
    return th.cat(values)


def _shapes(state: dict[str, Any]) -> dict[str, Any]:
    return {name: getattr(value, "shape", None) for name, value in state.items()}


def _copy(state: dict[str, Any]) -> dict[str, Any]:
    return {name: value.clone() if isinstance(value, th.Tensor) else value for name, value in state.items()}


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
