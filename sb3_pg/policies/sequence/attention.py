"""Policies with a causal Transformer over the episode so far: cached keys while acting, one pass an episode learning.

The Transformers stand between the features and the layers of SB3's policies, or of sb3-contrib's maskable ones, so that
all that a policy is asked goes through its own methods. What they cannot see in the features, which rows are which
steps of which episode, they are told for the time of a question.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.distributions import Distribution
from stable_baselines3.common.policies import ActorCriticCnnPolicy, ActorCriticPolicy, MultiInputActorCriticPolicy
from stable_baselines3.common.torch_layers import MlpExtractor
from torch import nn

from sb3_pg.data.batch import Observations
from sb3_pg.data.checks import check_positive_int
from sb3_pg.data.extras import ACTION_MASKS
from sb3_pg.policies.actor import WithoutCritic
from sb3_pg.policies.critic import SavedWhole
from sb3_pg.policies.sequence.sequences import (
    Memory,
    Sequences,
    check_episode_start,
    check_state,
    forgotten,
    n_observations,
    over_sequences,
)
from sb3_pg.policies.sequence.transformer import CausalTransformer

#: How many steps of the episode were seen, ``(n,)``.
N_SEEN = "n_seen"
#: Keys and values of a Transformer for the last of them, ``(n, n_layers, 2, context_length, d_model)``.
ACTOR, CRITIC = "actor_keys", "critic_keys"


class AttentionExtractor(nn.Module):
    """SB3's ``MlpExtractor`` behind a Transformer for the actor and one for the critic.

    :param sizes: arguments of the Transformers
    :param has_critic: whether the critic has one
    """

    def __init__(
        self, features_dim: int, mlp: MlpExtractor, sizes: dict[str, int], has_critic: bool, device: th.device
    ) -> None:
        super().__init__()
        self.mlp = mlp
        self.latent_dim_pi, self.latent_dim_vf = mlp.latent_dim_pi, mlp.latent_dim_vf
        names = (ACTOR, CRITIC) if has_critic else (ACTOR,)
        self.transformers = nn.ModuleDict({name: CausalTransformer(features_dim, **sizes) for name in names}).to(device)
        self._sequences: Sequences | None = None
        self._newest: Memory = {}

    def forward(self, features: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        """What the actor's layers and the critic's say of the rows, ``(n_rows, latent_dim)`` each."""
        return self.forward_actor(features), self.forward_critic(features)

    def forward_actor(self, features: th.Tensor) -> th.Tensor:
        """What the actor's say."""
        return self.mlp.forward_actor(self._attended(ACTOR, features))

    def forward_critic(self, features: th.Tensor) -> th.Tensor:
        """What the critic's say."""
        return self.mlp.forward_critic(self._attended(CRITIC, features) if CRITIC in self.transformers else features)

    @contextmanager
    def reading(self, sequences: Sequences) -> Iterator[Memory]:
        """Take the rows as those of these sequences, for the context; without, each row is an episode's first.

        :return: of sequences of one step, keys and values after it as they become known
        """
        self._sequences, self._newest = sequences, {}
        try:
            yield self._newest
        finally:
            self._sequences, self._newest = None, {}

    def empty_memory(self, n: int) -> Memory:
        """Zeros for ``n`` episodes that begin."""
        memory = {name: one.empty(n) for name, one in self.transformers.items()}  # type: ignore[operator]
        return memory | {N_SEEN: next(self.parameters()).new_zeros(n)}

    def _attended(self, name: str, features: th.Tensor) -> th.Tensor:
        transformer = self.transformers[name]
        sequences = self._sequences
        if sequences is None:
            if self.training and th.is_grad_enabled():
                raise ValueError(
                    "An attention policy is asked about single steps while it learns, and would remember nothing: "
                    "learn with REINFORCE, VanillaPG or OffPolicyISPG, whose batches are episodes"
                )
            ones = th.ones(len(features), dtype=th.long, device=features.device)
            sequences = Sequences(ones, self.empty_memory(len(features)))
        keys, n_seen = sequences.memory[name], sequences.memory[N_SEEN]
        if len(sequences.lengths) == len(features):  # of one step each
            said: th.Tensor
            said, self._newest[name] = transformer(features[:, None], keys, n_seen)
            return said[:, 0]

        def run(rows: th.Tensor, which: th.Tensor) -> th.Tensor:
            attended: th.Tensor = transformer(rows, keys[which], n_seen[which])[0]
            return attended

        return over_sequences(run, features, sequences.lengths)


class Attention(SavedWhole):
    """Stands before SB3's policies, or sb3-contrib's maskable ones, among the bases of a class.

    It takes their arguments, and these. A context that is shorter than the episode is no error: a step then sees the
    last ``context_length`` steps, and in every block but the lowest what these have seen.

    :param context_length: steps that a step sees in each block, itself among them
    :param d_model: numbers that stand for a step in the Transformers
    :param n_heads: of their attention; must divide ``d_model``
    :param n_layers: their blocks
    """

    whole_episodes = True
    features_dim: int
    mlp_extractor: Any
    evaluate_actions: Any
    get_distribution: Any
    predict_values: Any

    def __init__(
        self,
        *args: Any,
        context_length: int = 64,
        d_model: int = 64,
        n_heads: int = 4,
        n_layers: int = 2,
        **kwargs: Any,
    ):
        sizes = {"context_length": context_length, "d_model": d_model, "n_heads": n_heads, "n_layers": n_layers}
        for name, size in sizes.items():
            check_positive_int(name, size)
        self.attention_kwargs = sizes
        super().__init__(*args, **kwargs)

    @property
    def _latent_dim(self) -> int:
        return self.attention_kwargs["d_model"]

    def _build_mlp_extractor(self) -> None:
        features_dim, self.features_dim = self.features_dim, self.attention_kwargs["d_model"]
        super()._build_mlp_extractor()  # type: ignore[misc]  # of the actor-critic policy
        self.features_dim = features_dim
        has_critic = not isinstance(self, WithoutCritic)
        self.mlp_extractor = AttentionExtractor(
            features_dim, self.mlp_extractor, self.attention_kwargs, has_critic, self.device
        )

    def init_weights(self, module: nn.Module, gain: float = 1) -> None:  # type: ignore[override]
        """As in SB3, but a Transformer's are left as PyTorch made them."""
        if not any(module is part for one in self.mlp_extractor.transformers.values() for part in one.modules()):
            super().init_weights(module, gain)

    def _get_constructor_parameters(self) -> dict[str, Any]:
        return super()._get_constructor_parameters() | self.attention_kwargs

    # --- what is asked of a policy that remembers: see RememberingPolicy ----------------------------------------------

    def empty_memory(self, n: int) -> Memory:
        """Zeros for ``n`` episodes that begin."""
        memory: Memory = self.mlp_extractor.empty_memory(n)
        return memory

    def step(
        self, observations: Observations, memory: Memory, **extras: th.Tensor
    ) -> tuple[th.Tensor, th.Tensor, th.Tensor, Memory]:
        """Actions ``(n, *action_shape)``, values ``(n, 1)``, log-probs ``(n,)`` and the memory after them."""
        with self.mlp_extractor.reading(_one_step(memory)) as newest:
            actions, values, log_probs = self(observations, **extras)
        return actions, values, log_probs, newest | {N_SEEN: memory[N_SEEN] + 1}

    def evaluate_sequences(
        self, observations: Observations, actions: th.Tensor, sequences: Sequences, **extras: th.Tensor
    ) -> tuple[th.Tensor, th.Tensor, th.Tensor | None]:
        """Values ``(n_rows, 1)``, log-probs ``(n_rows,)`` and entropies ``(n_rows,)`` or None."""
        with self.mlp_extractor.reading(sequences):
            evaluated: tuple[th.Tensor, th.Tensor, th.Tensor | None]
            evaluated = self.evaluate_actions(observations, actions, **extras)
            return evaluated

    def distribution_of_sequences(
        self, observations: Observations, sequences: Sequences, **extras: th.Tensor
    ) -> Distribution:
        """The distribution of each row's action."""
        with self.mlp_extractor.reading(sequences):
            distribution: Distribution = self.get_distribution(observations, **extras)
            return distribution

    def values_of_sequences(self, observations: Observations, sequences: Sequences) -> th.Tensor:
        """``(n_rows, 1)``"""
        with self.mlp_extractor.reading(sequences):
            values: th.Tensor = self.predict_values(observations)
            return values

    # --- as in SB3 ----------------------------------------------------------------------------------------------------

    def predict(
        self,
        observation: np.ndarray | dict[str, np.ndarray],
        state: tuple[np.ndarray, ...] | None = None,
        episode_start: np.ndarray | None = None,
        deterministic: bool = False,
        action_masks: np.ndarray | None = None,
    ) -> tuple[np.ndarray, tuple[np.ndarray, ...] | None]:
        """As in SB3, or where the policy takes action masks, as in sb3-contrib.

        :param state: ``(n_envs, n_layers, 2, context_length, d_model)`` keys and values and ``(n_envs,)`` how many were
            seen, as the last call returned them; None: at the beginning
        :param episode_start: ``(n_envs,)`` bool, where an episode begins and the state counts for nothing
        :param action_masks: ``(n_envs, n)`` bool, what is allowed, of a policy that takes them
        :raises ValueError: for a state, or an ``episode_start``, of other shapes
        """
        n_envs = n_observations(self, observation)
        memory = self.empty_memory(n_envs)
        if state is not None:
            check_state(state, {name: tuple(memory[name].shape) for name in (ACTOR, N_SEEN)})
            given = (th.as_tensor(part).to(memory[ACTOR]) for part in state)
            memory |= dict(zip((ACTOR, N_SEEN), given, strict=True))
        if episode_start is not None:
            memory = forgotten(memory, check_episode_start(episode_start, n_envs))
        masks: dict[str, Any] = {} if action_masks is None else {ACTION_MASKS: action_masks}
        with self.mlp_extractor.reading(_one_step(memory)) as newest:
            actions, _ = super().predict(observation, deterministic=deterministic, **masks)
        return actions, (newest[ACTOR].cpu().numpy(), (memory[N_SEEN] + 1).cpu().numpy())


def _one_step(memory: Memory) -> Sequences:
    """A step of each episode, after what is known of it."""
    return Sequences(th.ones(len(memory[N_SEEN]), dtype=th.long, device=memory[N_SEEN].device), memory)


class AttentionCriticPolicy(Attention, ActorCriticPolicy):
    """SB3's ``ActorCriticPolicy`` with Transformers before its layers, see :class:`Attention`."""


class AttentionCriticCnnPolicy(AttentionCriticPolicy, ActorCriticCnnPolicy):
    """:class:`AttentionCriticPolicy` for images."""


class MultiInputAttentionCriticPolicy(AttentionCriticPolicy, MultiInputActorCriticPolicy):
    """:class:`AttentionCriticPolicy` for dictionaries of observations."""


class AttentionActorPolicy(Attention, WithoutCritic, ActorCriticPolicy):
    """An attention policy whose critic has no parameters and says 0.

    It takes the same arguments as :class:`AttentionCriticPolicy`. ``net_arch["vf"]`` and ``share_features_extractor``
    have nothing to act on.
    """


class AttentionActorCnnPolicy(AttentionActorPolicy, ActorCriticCnnPolicy):
    """:class:`AttentionActorPolicy` for images."""


class MultiInputAttentionActorPolicy(AttentionActorPolicy, MultiInputActorCriticPolicy):
    """:class:`AttentionActorPolicy` for dictionaries of observations."""
