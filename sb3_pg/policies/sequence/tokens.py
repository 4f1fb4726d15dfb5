"""Features of a context of tokens."""

from __future__ import annotations

from typing import Any

import torch as th
from gymnasium import spaces
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor

from sb3_pg.policies.sequence.transformer import CausalTransformer


class TokenTransformer(BaseFeaturesExtractor):
    """What a small causal Transformer says of the last token of a context, which is the observation of a ``TokenEnv``.

        REINFORCE("MlpPolicy", env, policy_kwargs={"features_extractor_class": TokenTransformer, "net_arch": []})

    It needs no memory: all that it may see is in the observation.

    :param observation_space: as many tokens as the context has, of one vocabulary
    :param d_model, n_heads, n_layers: sizes of the Transformer; ``d_model`` is also the number of features
    :raises ValueError: for another space
    """

    def __init__(self, observation_space: spaces.Space[Any], d_model: int = 32, n_heads: int = 2, n_layers: int = 2):
        if not (
            isinstance(observation_space, spaces.MultiDiscrete)
            and observation_space.nvec.ndim == 1
            and len(set(observation_space.nvec.tolist())) == 1
        ):
            raise ValueError(
                "TokenTransformer needs a MultiDiscrete observation of tokens from one vocabulary, as TokenEnv gives "
                f"it, got {observation_space}"
            )
        super().__init__(observation_space, d_model)
        self.context_length, self.n_kinds = len(observation_space.nvec), int(observation_space.nvec[0])
        self.transformer = CausalTransformer(self.n_kinds, d_model, n_heads, n_layers, self.context_length)

    def forward(self, observations: th.Tensor) -> th.Tensor:
        """:param observations: ``(n, context_length * n_kinds)``, each token as SB3 encodes it: a 1 among zeros."""
        tokens = observations.view(len(observations), self.context_length, self.n_kinds)
        nothing = self.transformer.empty(1).expand(len(tokens), -1, -1, -1, -1)
        said, _ = self.transformer(tokens, nothing, tokens.new_zeros(len(tokens)))
        last: th.Tensor = said[:, -1]
        return last
