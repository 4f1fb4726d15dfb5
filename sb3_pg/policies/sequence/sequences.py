"""Episodes as sequences: what a policy that remembers is asked about, of many of them at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol, cast

import numpy as np
import torch as th
from stable_baselines3.common.distributions import Distribution
from stable_baselines3.common.policies import BasePolicy

from sb3_pg.data.batch import Observations, Steps

#: What a policy knows of an episode so far: name -> ``(n_episodes, ...)``. Zeros: nothing, as at its beginning.
Memory = dict[str, th.Tensor]


@dataclass(frozen=True)
class Sequences:
    """How flat rows are sequences of steps, one after the other.

    :param lengths: ``(n_sequences,)`` rows of each
    :param memory: what is known before the first step of each
    """

    lengths: th.Tensor
    memory: Memory


class RememberingPolicy(Protocol):
    """A policy that remembers. Keyword arguments named ``extras`` are those that the class names in ``takes_extras``.

    Rows are those of whole episodes, or of what there is of them: it has ``whole_episodes = True``.
    """

    def empty_memory(self, n: int) -> Memory:
        """Zeros for ``n`` episodes that begin."""

    def step(
        self, observations: Observations, memory: Memory, **extras: th.Tensor
    ) -> tuple[th.Tensor, th.Tensor, th.Tensor, Memory]:
        """Draw ``(n, *action_shape)`` actions, with values ``(n, 1)``, log-probs ``(n,)`` and the memory after them."""

    def evaluate_sequences(
        self, observations: Observations, actions: th.Tensor, sequences: Sequences, **extras: th.Tensor
    ) -> tuple[th.Tensor, th.Tensor, th.Tensor | None]:
        """Values ``(n_rows, 1)``, log-probs ``(n_rows,)`` and entropies ``(n_rows,)`` or None."""

    def distribution_of_sequences(
        self, observations: Observations, sequences: Sequences, **extras: th.Tensor
    ) -> Distribution:
        """The distribution of each row's action."""

    def values_of_sequences(self, observations: Observations, sequences: Sequences) -> th.Tensor:
        """``(n_rows, 1)``"""


def remembering(policy: object) -> RememberingPolicy | None:
    """The policy as one that remembers; None if it does not."""
    return cast(RememberingPolicy, policy) if callable(getattr(policy, "evaluate_sequences", None)) else None


def sequences_of(policy: RememberingPolicy, steps: Steps) -> Sequences:
    """How the rows of some steps are sequences, each with what was known before its first row.

    :raises ValueError: for steps that do not say which episode each is of
    """
    if steps.episode is None:
        raise ValueError("A policy that remembers is asked about episodes: give steps their episode")
    lengths = th.unique_consecutive(steps.episode, return_counts=True)[1]
    empty = policy.empty_memory(len(lengths))
    # A memory of another kind, of a policy that stood in the place of this one, says nothing to it
    fits = {name: part.shape for name, part in steps.memory.items()} == {name: one.shape for name, one in empty.items()}
    return Sequences(lengths, dict(steps.memory) if fits else empty)


def over_sequences(run: Callable[[th.Tensor, th.Tensor], th.Tensor], rows: th.Tensor, lengths: th.Tensor) -> th.Tensor:
    """What a causal network says of the rows of sequences of different lengths.

    Sequences of about one length go together: the longest of them is less than twice as long as any, so that less than
    half of the work is on rows that fill up. Those come after a sequence's end, and what is said of them is dropped.

    :param run: from ``(n, length, d)`` rows of ``n`` sequences, and which these are, to ``(n, length, d_out)``
    :param rows: ``(n_rows, d)`` one sequence after the other
    :param lengths: ``(n_sequences,)``
    :return: ``(n_rows, d_out)``
    """
    first = lengths.cumsum(0) - lengths
    size = lengths.double().log2().ceil()
    said, places = [], []
    for one in size.unique():
        which = (size == one).nonzero().flatten()
        length = lengths[which][:, None]
        step = th.arange(int(length.max()), device=rows.device)
        place = first[which][:, None] + step.minimum(length - 1)
        is_real = step < length
        said.append(run(rows[place], which)[is_real])
        places.append(place[is_real])
    return th.cat(said)[th.cat(places).argsort()]


def forgotten(memory: Memory, episode_starts: np.ndarray) -> Memory:
    """The memory of episodes, some of which begin: of these nothing is known.

    :param episode_starts: ``(n,)`` bool
    """
    if not episode_starts.any():
        return memory
    starts = th.as_tensor(episode_starts, dtype=th.bool)
    return {
        name: part.masked_fill(starts.to(part.device).view(-1, *[1] * (part.ndim - 1)), 0)
        for name, part in memory.items()
    }


# --- what predict() is given ----------------------------------------------------------------------------------------


def n_observations(policy: BasePolicy, observation: Any) -> int:
    """How many observations ``predict`` was given."""
    tensors, _ = policy.obs_to_tensor(observation)
    return len(next(iter(tensors.values())) if isinstance(tensors, dict) else tensors)


def check_state(state: Any, shapes: Mapping[str, tuple[int, ...]]) -> None:
    """Refuse what ``predict(state=...)`` cannot go on from.

    :param state: a tuple of arrays
    :param shapes: what each has to be, by what it is called
    :raises ValueError: for another number of arrays, or other shapes
    """
    got = [np.shape(part) for part in state] if isinstance(state, (tuple, list)) else None
    if got != list(shapes.values()):
        wanted = ", ".join(f"{name} {shape}" for name, shape in shapes.items())
        given = type(state).__name__ if got is None else f"shapes {', '.join(map(str, got))}"
        raise ValueError(
            f"state must be a tuple of arrays, {wanted}, got {given}: give back the state that the last predict() of "
            "as many observations returned, or None at the beginning"
        )


def check_episode_start(episode_start: Any, n_envs: int) -> np.ndarray:
    """``(n_envs,)`` bool, where an episode begins.

    :raises ValueError: for another shape
    """
    starts = np.asarray(episode_start)
    if starts.shape != (n_envs,):
        raise ValueError(f"episode_start must have a truth value for each of {n_envs} observations, got {starts.shape}")
    return starts.astype(bool)
