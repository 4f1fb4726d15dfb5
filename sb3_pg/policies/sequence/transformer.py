"""A causal Transformer with a limited context, and the keys that it has seen."""

from __future__ import annotations

import math

import torch as th
from torch import nn
from torch.nn import functional as F


class CausalTransformer(nn.Module):
    """A stack of pre-norm attention blocks, in which each step sees itself and the ``context_length - 1`` before it.

    Where a step is matters by how long ago it was: every head has a learned bias for each distance (Raffel et al. 2020,
    "Exploring the limits of transfer learning", section 2.1, without their buckets). A block sees what the block below
    said of a step, so that through ``n_layers`` of them ``n_layers * (context_length - 1)`` steps back are in reach.

    :param n_features: numbers of a step
    :param d_model: numbers that stand for a step inside
    :param n_heads: of each block; must divide ``d_model``
    :param n_layers: blocks
    :raises ValueError: for a ``d_model`` that the heads do not divide
    """

    def __init__(self, n_features: int, d_model: int, n_heads: int, n_layers: int, context_length: int):
        super().__init__()
        if d_model % n_heads != 0:
            raise ValueError(f"d_model must be a multiple of n_heads={n_heads}, got {d_model}")
        self.context_length = context_length
        self.embedding = nn.Linear(n_features, d_model)
        self.blocks = nn.ModuleList(_Block(d_model, n_heads, context_length) for _ in range(n_layers))
        self.norm = nn.LayerNorm(d_model)

    def empty(self, n: int) -> th.Tensor:
        """``(n, n_layers, 2, context_length, d_model)`` keys and values of ``n`` sequences that begin."""
        weight = self.embedding.weight
        return weight.new_zeros(n, len(self.blocks), 2, self.context_length, len(weight))

    def forward(self, features: th.Tensor, seen: th.Tensor, n_seen: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        """What is said of each step.

        :param features: ``(n, length, n_features)`` of ``n`` sequences
        :param seen: ``(n, n_layers, 2, context_length, d_model)`` keys and values of the steps before, the newest last
        :param n_seen: ``(n,)`` how many of them there were; the rest counts for nothing
        :return: ``(n, length, d_model)``, and the keys and values as they are now
        """
        hidden = self.embedding(features)
        is_there = th.arange(self.context_length, 0, -1, device=features.device) <= n_seen[:, None]
        kept = []
        for number, block in enumerate(self.blocks):
            hidden, newest = block(hidden, seen[:, number], is_there)
            kept.append(newest)
        return self.norm(hidden), th.stack(kept, dim=1)


class _Block(nn.Module):
    """Attention over the context, then two layers on each step."""

    def __init__(self, d_model: int, n_heads: int, context_length: int):
        super().__init__()
        self.n_heads, self.context_length = n_heads, context_length
        self.attention_norm, self.norm = nn.LayerNorm(d_model), nn.LayerNorm(d_model)
        self.query_key_value = nn.Linear(d_model, 3 * d_model)
        self.out = nn.Linear(d_model, d_model)
        self.distance_bias = nn.Parameter(th.zeros(n_heads, context_length))
        self.feedforward = nn.Sequential(nn.Linear(d_model, 4 * d_model), nn.GELU(), nn.Linear(4 * d_model, d_model))

    def forward(self, hidden: th.Tensor, seen: th.Tensor, is_there: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        """As of the Transformer, for one block.

        :param seen: ``(n, 2, context_length, d_model)``
        :param is_there: ``(n, context_length)`` bool, which of these are steps of the sequence
        """
        query, *own = self.query_key_value(self.attention_norm(hidden)).chunk(3, dim=-1)
        keys_and_values = th.cat([seen, th.stack(own, dim=1)], dim=2)
        hidden = hidden + self.out(self._attend(query, keys_and_values, is_there))
        hidden = hidden + self.feedforward(self.norm(hidden))
        return hidden, keys_and_values[:, :, -self.context_length :]

    def _attend(self, query: th.Tensor, keys_and_values: th.Tensor, is_there: th.Tensor) -> th.Tensor:
        """Stretch after stretch of at most ``context_length`` steps, each over the keys that are in its reach."""
        (n, length, d_model), context = query.shape, self.context_length
        stretch = min(length, context)
        n_stretches = math.ceil(length / stretch)
        fill = n_stretches * stretch - length  # steps after the end, which nobody before it sees
        query = F.pad(query, (0, 0, 0, fill)).view(n, n_stretches, stretch, self.n_heads, -1)
        reach = F.pad(keys_and_values, (0, 0, 0, fill)).unfold(2, context + stretch, stretch)
        # (n, 2, n_stretches, d_model, reach) -> (n, n_stretches, n_heads, d_head, reach) each
        keys, values = reach.unflatten(3, (self.n_heads, -1)).unbind(1)
        scores = th.einsum("nsthd,nshdk->nshtk", query, keys) / math.sqrt(d_model // self.n_heads)
        scores = scores + self._bias(stretch)
        is_missing = F.pad(~is_there, (0, stretch)).view(n, 1, 1, 1, -1)  # in the reach of the first stretch alone
        first = scores[:, :1].masked_fill(is_missing, -math.inf)
        weights = th.cat([first, scores[:, 1:]], dim=1).softmax(dim=-1)
        said = th.einsum("nshtk,nshdk->nsthd", weights, values).reshape(n, -1, d_model)
        return said[:, :length]

    def _bias(self, stretch: int) -> th.Tensor:
        """``(n_heads, stretch, context_length + stretch)`` by a key's distance, minus infinity out of the context."""
        step = th.arange(stretch, device=self.distance_bias.device)
        key = th.arange(-self.context_length, stretch, device=self.distance_bias.device)
        distance = step[:, None] - key
        is_in = (distance >= 0) & (distance < self.context_length)
        bias = self.distance_bias[:, distance.clamp(0, self.context_length - 1)]
        return bias.masked_fill(~is_in, -math.inf)
