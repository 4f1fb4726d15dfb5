"""Who draws the actions of a rollout: the policy itself, or a fast actor that draws the same."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

import numpy as np
import torch as th
from stable_baselines3.common.distributions import CategoricalDistribution
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.utils import obs_as_tensor

from sb3_pg.policies.evaluation import NO_EXTRAS, act, empty_memory
from sb3_pg.policies.fast.fast_actor import CategoricalActor, GaussianActor
from sb3_pg.policies.fast.stock import is_stock, is_stock_lstm
from sb3_pg.policies.sequence.sequences import Memory, forgotten


class Actor(Protocol):
    """Draws actions step by step, and says afterwards how likely they were.

    ``obs_tensor``, ``values`` and ``log_probs`` are those of the last step, or None, and ``latents`` what its actions
    came of.
    """

    obs_tensor: th.Tensor | dict[str, th.Tensor] | None
    values: th.Tensor | None
    log_probs: th.Tensor | None
    latents: Mapping[str, np.ndarray]

    @property
    def memory(self) -> Memory | None:
        """What the policy remembers of the running episodes, None of one that does not."""

    def forget(self, episode_starts: np.ndarray) -> None:
        """Know nothing of the episodes that begin.

        :param episode_starts: ``(n_envs,)`` bool
        """

    def act(self, obs: np.ndarray | dict[str, np.ndarray], extras: Mapping[str, np.ndarray] = NO_EXTRAS) -> np.ndarray:
        """Draw ``(n_envs, *action_shape)`` actions.

        :param extras: name -> ``(n_envs, ...)`` what the policy takes beside the observations
        """

    def watch(self) -> None:
        """Prepare for :meth:`fits`."""

    def fits(self, policy: ActorCriticPolicy) -> bool:
        """Whether this is still what the policy does."""

    def evaluation(self, observations: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        """Values of all steps so far and log-probs of the actions drawn in them, ``(n_rows,)`` each."""


class PolicyActor:
    """The policy itself."""

    def __init__(self, policy: ActorCriticPolicy, memory: Memory | None = None):
        self._policy = policy
        self.memory: Memory | None = memory
        self.latents: Mapping[str, np.ndarray] = NO_EXTRAS
        self._evaluations: list[tuple[th.Tensor, th.Tensor]] = []
        self.obs_tensor: th.Tensor | dict[str, th.Tensor] | None = None
        self.values: th.Tensor | None = None
        self.log_probs: th.Tensor | None = None

    def forget(self, episode_starts: np.ndarray) -> None:
        """See :class:`Actor`."""
        if self.memory is not None:
            self.memory = forgotten(self.memory, episode_starts)

    def act(self, obs: np.ndarray | dict[str, np.ndarray], extras: Mapping[str, np.ndarray] = NO_EXTRAS) -> np.ndarray:
        """See :class:`Actor`."""
        with th.no_grad():
            self.obs_tensor = obs_as_tensor(obs, self._policy.device)
            drawn = act(self._policy, self.obs_tensor, extras, self.memory)
        self.memory, self.values, self.log_probs = drawn.memory, drawn.values, drawn.log_probs
        self.latents = {name: latent.cpu().numpy() for name, latent in drawn.latents.items()}
        self._evaluations.append((drawn.values.flatten(), drawn.log_probs))
        actions: np.ndarray = drawn.actions.cpu().numpy()
        return actions

    def watch(self) -> None:
        """See :class:`Actor`."""

    def fits(self, policy: ActorCriticPolicy) -> bool:
        """See :class:`Actor`."""
        return policy is self._policy

    def evaluation(self, observations: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        """See :class:`Actor`; what it said when it drew them."""
        values, log_probs = zip(*self._evaluations, strict=True)
        return th.cat(values), th.cat(log_probs)


def actor_of(
    policy: ActorCriticPolicy, n_envs: int, n_steps: int, may_be_fast: bool = True, memory: Memory | None = None
) -> Actor:
    """The fastest that does what the policy does.

    :param n_envs: observations of a step
    :param n_steps: most steps of the rollout
    :param memory: what a policy that remembers goes on with, if it is of its kind; None: with nothing
    """
    empty = empty_memory(policy, n_envs)
    if memory is None or empty is None or _kinds(memory) != _kinds(empty):
        memory = empty
    if not (may_be_fast and (is_stock(policy) or is_stock_lstm(policy))):
        return PolicyActor(policy, memory)
    kind = CategoricalActor if isinstance(policy.action_dist, CategoricalDistribution) else GaussianActor
    return kind(policy, n_envs, n_steps, memory)  # type: ignore[return-value]  # of observations that are arrays


def _kinds(memory: Memory) -> dict[str, tuple[th.Size, th.dtype, th.device]]:
    return {name: (part.shape, part.dtype, part.device) for name, part in memory.items()}
