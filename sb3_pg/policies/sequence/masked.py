"""Policies that remember and take action masks: sb3-contrib's distributions at the end of ours."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import cast

import numpy as np
import torch as th
from sb3_contrib.common.maskable.distributions import MaskableDistribution, make_masked_proba_distribution
from sb3_contrib.common.maskable.policies import (
    MaskableActorCriticCnnPolicy,
    MaskableActorCriticPolicy,
    MaskableMultiInputActorCriticPolicy,
)
from stable_baselines3.common.distributions import Distribution
from stable_baselines3.common.type_aliases import Schedule

from sb3_pg.data.batch import Observations
from sb3_pg.data.extras import ACTION_MASKS
from sb3_pg.policies.actor import WithoutCritic
from sb3_pg.policies.sequence.attention import Attention
from sb3_pg.policies.sequence.recurrent import (
    LstmActorCnnPolicy,
    LstmActorPolicy,
    LstmCriticCnnPolicy,
    LstmCriticPolicy,
    MultiInputLstmActorPolicy,
    MultiInputLstmCriticPolicy,
)
from sb3_pg.policies.sequence.sequences import Memory, Sequences


class MaskableLstmCriticPolicy(LstmCriticPolicy):
    """:class:`~sb3_pg.policies.sequence.recurrent.LstmCriticPolicy` with action masks; its arguments are the same."""

    takes_extras = (ACTION_MASKS,)
    _action_masks: th.Tensor | np.ndarray | None = None

    @contextmanager
    def _under(self, action_masks: th.Tensor | np.ndarray | None) -> Iterator[None]:
        """Have distributions heed masks, ``(n_rows, n)`` bool, for the context; None: everything is allowed."""
        self._action_masks = action_masks
        try:
            yield
        finally:
            self._action_masks = None

    def _build(self, lr_schedule: Schedule) -> None:
        super()._build(lr_schedule)
        self.action_dist = make_masked_proba_distribution(self.action_space)
        self.action_net = self.action_dist.proba_distribution_net(latent_dim=self.mlp_extractor.latent_dim_pi)
        if self.ortho_init:
            self.action_net.apply(
                partial(self.init_weights, gain=0.01)
            )  # sb3-contrib's constructor makes the optimizer

    def _get_action_dist_from_latent(self, latent_pi: th.Tensor) -> MaskableDistribution:
        masked = cast(MaskableDistribution, self.action_dist)
        masked.proba_distribution(action_logits=self.action_net(latent_pi))
        masked.apply_masking(self._action_masks)
        return masked

    def step(
        self, observations: Observations, memory: Memory, **extras: th.Tensor
    ) -> tuple[th.Tensor, th.Tensor, th.Tensor, Memory]:
        """As the policy without masks."""
        with self._under(extras.pop(ACTION_MASKS, None)):
            return super().step(observations, memory, **extras)

    def evaluate_sequences(
        self, observations: Observations, actions: th.Tensor, sequences: Sequences, **extras: th.Tensor
    ) -> tuple[th.Tensor, th.Tensor, th.Tensor | None]:
        """As the policy without masks."""
        with self._under(extras.pop(ACTION_MASKS, None)):
            return super().evaluate_sequences(observations, actions, sequences, **extras)

    def distribution_of_sequences(
        self, observations: Observations, sequences: Sequences, **extras: th.Tensor
    ) -> Distribution:
        """As the policy without masks."""
        with self._under(extras.pop(ACTION_MASKS, None)):
            return super().distribution_of_sequences(observations, sequences, **extras)

    def predict(
        self,
        observation: np.ndarray | dict[str, np.ndarray],
        state: tuple[np.ndarray, ...] | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
        action_masks: np.ndarray | None = None,
    ) -> tuple[np.ndarray, tuple[np.ndarray, ...] | None]:
        """As the policy without masks.

        :param action_masks: ``(n,)`` of one observation or ``(n_envs, n)`` of several, True for what is allowed
        """
        with self._under(action_masks):
            return super().predict(observation, state, episode_start, deterministic)


class MaskableLstmCriticCnnPolicy(MaskableLstmCriticPolicy, LstmCriticCnnPolicy):
    """:class:`MaskableLstmCriticPolicy` for images."""


class MaskableMultiInputLstmCriticPolicy(MaskableLstmCriticPolicy, MultiInputLstmCriticPolicy):
    """:class:`MaskableLstmCriticPolicy` for dictionaries of observations."""


class MaskableLstmActorPolicy(MaskableLstmCriticPolicy, LstmActorPolicy):
    """:class:`~sb3_pg.policies.sequence.recurrent.LstmActorPolicy` with action masks; its arguments are the same."""


class MaskableLstmActorCnnPolicy(MaskableLstmCriticPolicy, LstmActorCnnPolicy):
    """:class:`MaskableLstmActorPolicy` for images."""


class MaskableMultiInputLstmActorPolicy(MaskableLstmCriticPolicy, MultiInputLstmActorPolicy):
    """:class:`MaskableLstmActorPolicy` for dictionaries of observations."""


class MaskableAttentionCriticPolicy(Attention, MaskableActorCriticPolicy):
    """sb3-contrib's ``MaskableActorCriticPolicy`` with Transformers before its layers.

    Arguments beyond its own: :class:`~sb3_pg.policies.sequence.attention.Attention`.
    """


class MaskableAttentionCriticCnnPolicy(MaskableAttentionCriticPolicy, MaskableActorCriticCnnPolicy):
    """:class:`MaskableAttentionCriticPolicy` for images."""


class MaskableMultiInputAttentionCriticPolicy(MaskableAttentionCriticPolicy, MaskableMultiInputActorCriticPolicy):
    """:class:`MaskableAttentionCriticPolicy` for dictionaries of observations."""


class MaskableAttentionActorPolicy(Attention, WithoutCritic, MaskableActorCriticPolicy):
    """:class:`MaskableAttentionCriticPolicy` whose critic has no parameters and says 0."""


class MaskableAttentionActorCnnPolicy(MaskableAttentionActorPolicy, MaskableActorCriticCnnPolicy):
    """:class:`MaskableAttentionActorPolicy` for images."""


class MaskableMultiInputAttentionActorPolicy(MaskableAttentionActorPolicy, MaskableMultiInputActorCriticPolicy):
    """:class:`MaskableAttentionActorPolicy` for dictionaries of observations."""
