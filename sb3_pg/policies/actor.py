"""Policies without a critic, with the three outputs that SB3 expects of an on-policy one."""

from __future__ import annotations

from typing import Any

import torch as th
from stable_baselines3.common.policies import ActorCriticCnnPolicy, ActorCriticPolicy, MultiInputActorCriticPolicy
from stable_baselines3.common.torch_layers import MlpExtractor
from stable_baselines3.common.type_aliases import Schedule
from torch import nn

from sb3_pg.policies.critic import SavedWhole


class ZeroValue(nn.Module):
    """A critic that knows nothing: V(s) = 0, without parameters."""

    def forward(self, latent: th.Tensor) -> th.Tensor:
        """:return: ``(n, 1)`` zeros"""
        # From the latent itself: a number of rows would be a constant in a traced or exported policy
        return th.zeros_like(latent[:, :1])


class WithoutCritic(SavedWhole):
    """Takes the critic away from the actor-critic policy that it stands before among the bases of a class."""

    net_arch: list[int] | dict[str, list[int]]
    activation_fn: type[nn.Module]
    features_dim: int
    vf_features_extractor: Any
    value_net: Any

    @property
    def _latent_dim(self) -> int:
        """How many numbers go into the layers of the actor."""
        return self.features_dim

    def _build_mlp_extractor(self) -> None:
        actor_arch = self.net_arch.get("pi", []) if isinstance(self.net_arch, dict) else self.net_arch
        self.mlp_extractor = MlpExtractor(
            self._latent_dim,
            net_arch={"pi": actor_arch, "vf": []},
            activation_fn=self.activation_fn,
            device=self.device,
        )

    def _build(self, lr_schedule: Schedule) -> None:
        self.share_features_extractor = True
        self.vf_features_extractor = self.pi_features_extractor
        super()._build(lr_schedule)  # type: ignore[misc]  # of the actor-critic policy
        # SB3 builds the value layer and its optimizer in one go: replace the one, rebuild the other without it.
        self.value_net = ZeroValue()
        self.optimizer = self.optimizer_class(self.parameters(), lr=lr_schedule(1), **self.optimizer_kwargs)  # type: ignore[call-arg]


class ActorPolicy(WithoutCritic, ActorCriticPolicy):
    """An :class:`~stable_baselines3.common.policies.ActorCriticPolicy` whose critic has no parameters and says 0.

    It takes the same arguments. ``net_arch["vf"]`` and ``share_features_extractor`` have nothing to act on. Stock
    PPO and A2C accept it too: with one of this package's rollout buffers they learn without a critic.
    """


class ActorCnnPolicy(ActorPolicy, ActorCriticCnnPolicy):
    """:class:`ActorPolicy` for images."""


class MultiInputActorPolicy(ActorPolicy, MultiInputActorCriticPolicy):
    """:class:`ActorPolicy` for dictionaries of observations."""
