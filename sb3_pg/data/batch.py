"""A batch of episodes: facts as they were collected, and what each step is credited with."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import torch as th

from sb3_pg.data.extras import joined_extras
from sb3_pg.estimators import EpisodeIndex

Observations = th.Tensor | dict[str, th.Tensor]
Returns = Literal["reward_to_go", "total", "gae"]
IncompleteEpisodes = Literal["carry", "bootstrap", "truncate", "drop"]


@dataclass(frozen=True)
class Edit:
    """What a callback made of numbers in the rollout buffer, such as a bonus added to its ``advantages``.

    :param shown: ``(n_rows,)`` what the buffer had said
    :param now: ``(n_rows,)`` what it says after the callback
    """

    shown: th.Tensor
    now: th.Tensor

    def applied(self, computed: th.Tensor) -> th.Tensor:
        """``(n_rows,)`` the numbers computed here, changed as the callback changed those that it saw."""
        return th.where(self.now == self.shown, computed, self.now + (computed - self.shown))


def edited(computed: th.Tensor, edit: Edit | None) -> th.Tensor:
    """``(n_rows,)`` the numbers computed here as a callback left them; as they are without an edit."""
    return computed if edit is None else edit.applied(computed)


@dataclass(frozen=True)
class Steps:
    """Some steps of a batch, as a policy is asked about them (:mod:`sb3_pg.policies.evaluation`).

    :param observations: ``(n_rows, *obs_shape)``, or a dictionary of such
    :param actions: ``(n_rows,)`` or ``(n_rows, action_dim)``
    :param extras: name -> ``(n_rows, ...)`` what the policy is told beyond the observation, such as action masks
    :param episode: ``(n_rows,)`` which episode of the batch each is of; None where nobody says
    :param memory: name -> ``(n_episodes, ...)`` what a policy that remembers knew before the first row of each episode,
        in the order of the rows; empty: nothing, as at an episode's beginning
    """

    observations: Observations
    actions: th.Tensor
    extras: Mapping[str, th.Tensor] = field(default_factory=dict)
    episode: th.Tensor | None = None
    memory: Mapping[str, th.Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class EpisodeBatch:
    """The episodes of one update, as they were collected.

    Rows are flat, episode after episode: ``n_rows`` steps of ``n_episodes`` episodes, laid out as ``episodes`` says.

    :param episodes: which episode and which step of it a row is.
    :param observations: ``(n_rows, *obs_shape)``, or a dictionary of such.
    :param actions: ``(n_rows,)`` integers for Discrete, else ``(n_rows, action_dim)``.
    :param rewards: ``(n_rows,)`` as the environment gave them.
    :param behaviour_log_prob: ``(n_rows,)`` log-prob under the parameters that sampled the action.
    :param values: ``(n_rows,)`` V(s) under the parameters that collected the row; 0 without a critic.
    :param carried: ``(n_rows,)`` bool, True where an earlier policy collected the row.
    :param env: ``(n_episodes,)`` the environment that each was played in.
    :param terminated: ``(n_episodes,)`` bool, the MDP ended.
    :param truncated: ``(n_episodes,)`` bool, a time limit ended the episode. Neither: the rollout's edge cut it.
    :param last_values: ``(n_episodes,)`` the worth of what follows the last row: 0 for nothing.
    :param last_observations: ``(n_episodes, *obs_shape)`` what was observed there, or a dictionary of such; None unless
        the buffer was asked to keep them
    :param is_followed: ``(n_episodes,)`` bool, whether anything follows; None with ``last_observations``
    :param advantage_edit: what a callback made of the buffer's ``advantages``, None for nothing
    :param return_edit: what it made of the buffer's ``returns``
    :param value_edit: what it made of the buffer's ``values``, after the advantages were computed from them
    :param extras: name -> ``(n_rows, ...)`` what the policy was told beyond the observation when it chose the action,
        and is told again whenever it is asked about the row: ``"action_masks"``, say. Empty for most policies.
    :param memory: name -> ``(n_episodes, ...)`` what a policy that remembers knew before the first row of each: zeros,
        or where the rollout's edge cut off the episode's beginning, something. Empty for most policies.
    """

    episodes: EpisodeIndex
    observations: Observations
    actions: th.Tensor
    rewards: th.Tensor
    behaviour_log_prob: th.Tensor
    values: th.Tensor
    carried: th.Tensor
    env: th.Tensor
    terminated: th.Tensor
    truncated: th.Tensor
    last_values: th.Tensor
    last_observations: Observations | None = None
    is_followed: th.Tensor | None = None
    advantage_edit: Edit | None = None
    return_edit: Edit | None = None
    value_edit: Edit | None = None
    extras: Mapping[str, th.Tensor] = field(default_factory=dict)
    memory: Mapping[str, th.Tensor] = field(default_factory=dict)

    @property
    def old_values(self) -> th.Tensor:
        """``(n_rows,)`` the values that a clipped critic may not leave far behind, as a callback edited them."""
        return edited(self.values, self.value_edit)

    @property
    def n_rows(self) -> int:
        """Number of steps."""
        return self.episodes.n_rows

    def at(self, rows: slice | th.Tensor) -> Steps:
        """What a policy is asked about at some rows."""
        observations: Observations
        if isinstance(self.observations, dict):
            observations = {key: value[rows] for key, value in self.observations.items()}
        else:
            observations = self.observations[rows]
        extras = {name: extra[rows] for name, extra in self.extras.items()}
        episode = self.episodes.episode[rows]
        which = episode.unique_consecutive() if self.memory else None
        memory = {name: part[which] for name, part in self.memory.items()}
        return Steps(observations, self.actions[rows], extras, episode, memory)

    def each_episode(self) -> Iterator[slice]:
        """The rows of one episode after the other."""
        for end, length in zip(self.episodes.last_row.tolist(), self.episodes.lengths.tolist(), strict=True):
            yield slice(end + 1 - length, end + 1)


@dataclass(frozen=True)
class ReturnsBatch(EpisodeBatch):
    """A batch with its returns, as a baseline of the user's sees it.

    :param returns: ``(n_rows,)`` what each step earned, by the algorithm's ``returns``
    """

    returns: th.Tensor = field(kw_only=True)


#: A baseline of the user's: from the batch to ``(n_rows,)`` values, or to one for all rows.
Baseline = Callable[[ReturnsBatch], "th.Tensor | float"]


@dataclass(frozen=True)
class Credit:
    """What the steps of a batch are credited with.

    :param returns: ``(n_rows,)`` what each step earned
    :param advantages: ``(n_rows,)`` the same less the baseline
    :param value_targets: ``(n_rows,)`` what a critic should have said
    """

    returns: th.Tensor
    advantages: th.Tensor
    value_targets: th.Tensor

    @property
    def baseline(self) -> th.Tensor:
        """``(n_rows,)`` what was subtracted."""
        return self.returns - self.advantages


def concatenate(batches: Sequence[EpisodeBatch]) -> EpisodeBatch:
    """One batch of the episodes of several; environments of different batches count as different."""
    if len(batches) == 1:
        return batches[0]
    index = [one.episodes for one in batches]
    lengths = th.cat([one.lengths for one in index])
    first_step = th.cat([one.step[one.first_row] for one in index])
    n_envs = [int(one.env.max()) + 1 if len(one.env) else 0 for one in batches]
    envs = [one.env + sum(n_envs[:number]) for number, one in enumerate(batches)]
    joined: dict[str, Any] = {"episodes": EpisodeIndex.from_lengths(lengths, first_step), "env": th.cat(envs)}
    joined["extras"] = joined_extras([one.extras for one in batches], [one.n_rows for one in batches])
    memories = _of_one_kind([one.memory for one in batches])
    joined["memory"] = joined_extras(memories, [one.n_episodes for one in index])
    for name in FACTS:
        joined[name] = _joined([getattr(one, name) for one in batches])
    return EpisodeBatch(**joined)


def _of_one_kind(memories: Sequence[Mapping[str, th.Tensor]]) -> list[Mapping[str, th.Tensor]]:
    """Those of the first that there is, and nothing where another kind of policy remembered something else."""
    kinds = [{name: part.shape[1:] for name, part in one.items()} for one in memories]
    first = next(filter(None, kinds), {})
    return [one if kind == first else {} for one, kind in zip(memories, kinds, strict=True)]


def _joined(values: Sequence[Any]) -> Any:
    """Tensors, or dictionaries of them, one after the other; None if one is missing."""
    if any(value is None for value in values):
        return None
    if isinstance(values[0], Mapping):
        return {key: th.cat([value[key] for value in values]) for key in values[0]}
    return th.cat(list(values))


#: The fields that are laid out row after row or episode after episode, and nothing else.
FACTS = (
    "observations",
    "actions",
    "rewards",
    "behaviour_log_prob",
    "values",
    "carried",
    "terminated",
    "truncated",
    "last_values",
    "last_observations",
    "is_followed",
)


def concatenate_credit(credits: Sequence[Credit]) -> Credit:
    """The credit of the rows of :func:`concatenate`."""
    names = [field.name for field in dataclasses.fields(Credit)]
    return Credit(**{name: th.cat([getattr(one, name) for one in credits]) for name in names})
