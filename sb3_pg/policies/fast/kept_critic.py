"""A stock policy's critic, kept as it was: a callback may change it before its values are asked for."""

from __future__ import annotations

from functools import partial

import torch as th
from stable_baselines3.common.policies import ActorCriticPolicy
from torch.nn import functional as F

from sb3_pg.data.minibatches import CACHE_ROWS, pieces
from sb3_pg.policies.actor import ZeroValue
from sb3_pg.policies.fast.stock import layers
from sb3_pg.policies.passes import through


class KeptCritic:
    """What the critic says now, also later; of an LSTM policy the layers behind its LSTM.

    :param policy: for which :func:`~sb3_pg.policies.fast.stock.is_stock` holds, or ``is_stock_lstm``
    """

    def __init__(self, policy: ActorCriticPolicy):
        self._knows_nothing = isinstance(policy.value_net, ZeroValue)
        pairs = [] if self._knows_nothing else list(layers(policy.mlp_extractor.value_net, policy.value_net))
        self._parameters = [parameter.detach() for layer, _ in pairs for parameter in (layer.weight, layer.bias)]
        self._kept = [parameter.clone() for parameter in self._parameters]
        weights, biases = self._kept[::2], self._kept[1::2]
        self._steps = [
            (partial(F.linear, weight=weight, bias=bias), activation)
            for weight, bias, (_, activation) in zip(weights, biases, pairs, strict=True)
        ]

    def is_unchanged(self) -> bool:
        """Whether the numbers in the parameters are still the same; which layers there are is for others to compare."""
        return all(map(th.equal, self._parameters, self._kept))

    def values(self, observations: th.Tensor) -> th.Tensor:
        """``(n_rows,)``"""
        if self._knows_nothing:
            return th.zeros(len(observations))
        with th.no_grad():
            values = [through(self._steps, observations[rows]) for rows in pieces(len(observations), CACHE_ROWS)]
        return th.cat(values).flatten()
