"""The one place where a policy is asked about steps of a batch, and is told all that it wants to know of them.

What it wants beyond the observation, the *extras*, came with the step when the policy acted, and the policy's class
names it:

- ``takes_extras``: names of extras that ``forward``, ``evaluate_actions`` and ``get_distribution`` take, as keyword
  arguments of these names;
- ``latents``: those of the last ``forward`` that were not given, but drawn on the way to the actions;
- ``values_take_extras``: those that ``predict_values`` takes;
- ``whole_episodes``: True for a policy that has to see whole episodes. It is then given, in every minibatch and every
  piece of one, rows of whole episodes, one after the other.

A policy that remembers is asked about sequences (:class:`~sb3_pg.policies.sequence.sequences.RememberingPolicy`).
One without these attributes is asked about observations alone, row by row, as SB3's are; sb3-contrib's maskable
ones take ``action_masks``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch as th
from sb3_contrib.common.maskable.policies import MaskableActorCriticPolicy
from stable_baselines3.common.distributions import Distribution
from stable_baselines3.common.policies import ActorCriticPolicy

from sb3_pg.data.batch import Observations, Steps
from sb3_pg.data.extras import ACTION_MASKS
from sb3_pg.data.minibatches import Minibatch
from sb3_pg.policies.contexts import distribution_left_alone
from sb3_pg.policies.sequence.sequences import Memory, Sequences, remembering, sequences_of

#: What most policies are told beside their observations.
NO_EXTRAS: Mapping[str, Any] = MappingProxyType({})


def extras_of(policy: object) -> tuple[str, ...]:
    """The names of what a policy takes beside observations; of its class too, before there is a policy."""
    is_masked = isinstance(policy, MaskableActorCriticPolicy) or (
        isinstance(policy, type) and issubclass(policy, MaskableActorCriticPolicy)
    )
    names: tuple[str, ...] = getattr(policy, "takes_extras", (ACTION_MASKS,) if is_masked else ())
    return names


def wants_whole_episodes(policy: ActorCriticPolicy) -> bool:
    """Whether its rows may not be taken out of their episodes."""
    return bool(getattr(policy, "whole_episodes", False))


def pieces_for(
    policy: ActorCriticPolicy, part: Minibatch, size: int | None
) -> Iterator[tuple[slice, slice | th.Tensor]]:
    """A part of a batch in pieces of about ``size`` rows that the policy can be asked about.

    :return: where they are in the part, and where in the batch
    """
    return part.pieces(size, wants_whole_episodes(policy))


def empty_memory(policy: ActorCriticPolicy, n: int) -> Memory | None:
    """What a policy knows at the beginning of ``n`` episodes; None of one that does not remember."""
    return None if (one := remembering(policy)) is None else one.empty_memory(n)


@dataclass(frozen=True)
class Drawn:
    """What a policy does in a step.

    :param actions: ``(n_envs, *action_shape)``
    :param values: ``(n_envs, 1)``
    :param log_probs: ``(n_envs,)``
    :param memory: what it knows after the step, None of one that does not remember
    :param latents: name -> ``(n_envs, ...)`` what the actions came of, which it is told again among the extras
    """

    actions: th.Tensor
    values: th.Tensor
    log_probs: th.Tensor
    memory: Memory | None
    latents: Mapping[str, th.Tensor]


def act(
    policy: ActorCriticPolicy, observations: Observations, extras: Mapping[str, Any], memory: Memory | None = None
) -> Drawn:
    """Draw actions.

    :param extras: name -> ``(n_envs, ...)`` arrays
    :param memory: what was known before, of a policy that remembers
    """
    told: dict[str, Any] = {}
    if extras:
        tensors = {name: th.as_tensor(value, device=policy.device) for name, value in extras.items()}
        told = _taken(extras_of(policy), tensors)
    if memory is not None and (one := remembering(policy)) is not None:
        return Drawn(*one.step(observations, memory, **told), NO_EXTRAS)
    actions, values, log_probs = policy(observations, **told)
    return Drawn(actions, values, log_probs, None, getattr(policy, "latents", NO_EXTRAS))


def next_values(policy: ActorCriticPolicy, observations: Observations, memory: Memory | None) -> th.Tensor:
    """``(n,)`` the value of what is observed next.

    :param memory: what is known of the episodes so far, of a policy that remembers
    """
    if memory is not None and (one := remembering(policy)) is not None:
        n = len(next(iter(memory.values())))
        ones = th.ones(n, dtype=th.long, device=policy.device)
        return one.values_of_sequences(observations, Sequences(ones, memory)).flatten()
    return policy.predict_values(observations).flatten()


def evaluate_actions(policy: ActorCriticPolicy, steps: Steps) -> tuple[th.Tensor, th.Tensor, th.Tensor | None]:
    """Values ``(n_rows, 1)``, log-probs ``(n_rows,)`` and entropies ``(n_rows,)`` or None, as the policy's own."""
    told = _taken(extras_of(policy), steps.extras)
    if (one := remembering(policy)) is not None:
        return one.evaluate_sequences(steps.observations, steps.actions, sequences_of(one, steps), **told)
    return policy.evaluate_actions(steps.observations, steps.actions, **told)


def action_distribution(policy: ActorCriticPolicy, steps: Steps) -> Distribution:
    """The policy's distribution, safe from the next one: a policy of SB3's writes all of them into one object."""
    told = _taken(extras_of(policy), steps.extras)
    with distribution_left_alone(policy):
        if (one := remembering(policy)) is not None:
            return one.distribution_of_sequences(steps.observations, sequences_of(one, steps), **told)
        return policy.get_distribution(steps.observations, **told)


def predict_values(policy: ActorCriticPolicy, steps: Steps) -> th.Tensor:
    """``(n_rows, 1)``"""
    if (one := remembering(policy)) is not None:
        return one.values_of_sequences(steps.observations, sequences_of(one, steps))
    told = _taken(getattr(policy, "values_take_extras", ()), steps.extras)
    return policy.predict_values(steps.observations, **told)


def _taken(names: tuple[str, ...], extras: Mapping[str, th.Tensor]) -> dict[str, Any]:
    """Of the extras that there are those that are wanted."""
    return {name: extras[name] for name in names if name in extras}
