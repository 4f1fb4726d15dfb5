"""States that a policy is in for a while."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager

from stable_baselines3.common.policies import ActorCriticPolicy


@contextmanager
def evaluation_mode(policy: ActorCriticPolicy) -> Iterator[None]:
    """As the policy acts: no dropout, and batch normalisation by its running statistics."""
    if not any(module.training for module in policy.modules()):
        yield
        return
    was_training = policy.training
    policy.set_training_mode(False)
    try:
        yield
    finally:
        policy.set_training_mode(was_training)


@contextmanager
def distribution_left_alone(policy: ActorCriticPolicy) -> Iterator[None]:
    """Have evaluations write into a copy of the policy's distribution object.

    SB3's policies keep the last distribution, and with it the graph that it was computed by, in one object: a policy
    that has just been trained could not be deep-copied.
    """
    kept = getattr(policy, "action_dist", None)
    if kept is None:
        yield
        return
    policy.action_dist = copy.copy(kept)
    try:
        yield
    finally:
        policy.action_dist = kept
