"""The actions that a stock policy would draw, and nothing else: no values, no distribution objects.

The parameters of the distributions are kept: all log-probs of a rollout can be had at once when it is over.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import cast

import numpy as np
import torch as th
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import nn
from torch.distributions import Normal

from sb3_pg.data.minibatches import CACHE_ROWS, pieces
from sb3_pg.policies.evaluation import NO_EXTRAS
from sb3_pg.policies.fast.kept_critic import KeptCritic
from sb3_pg.policies.fast.recurrence import Recurrence
from sb3_pg.policies.fast.stock import categorical_log_prob, layers
from sb3_pg.policies.fast.watch import Watch
from sb3_pg.policies.sequence.recurrent import LstmCriticPolicy
from sb3_pg.policies.sequence.sequences import Memory

#: Most multiplications of a product that one thread does about as fast as several. Those that were awake for it stay so
#: for some milliseconds, in the way of the environments' own threads, or of the other library's.
MAX_PRODUCT_OF_ONE_THREAD = 2**18


class FastActor(ABC):
    """Draws actions from as many random numbers as ``policy(obs)``, and the same; made anew for every rollout.

    It reads the actor's parameters where they are, so that an edit in place counts from the next step on; what was
    replaced, and any edit of the critic, :meth:`fits` finds out.

    :param policy: for which :func:`~sb3_pg.policies.fast.stock.is_stock` holds, or ``is_stock_lstm``
    :param n_envs: observations of a step
    :param n_steps: most steps of the rollout
    :param memory: what an LSTM policy knows of the running episodes
    """

    # What a callback knows from SB3's locals; a fast actor has none of it before the rollout's end
    obs_tensor = values = log_probs = None
    latents = NO_EXTRAS
    #: ``(n_steps, n_envs, ...)`` what was drawn: a callback may edit the actions that it was given
    _drawn: th.Tensor

    def __init__(self, policy: ActorCriticPolicy, n_envs: int, n_steps: int, memory: Memory | None = None):
        self._policy = policy
        self._n_envs = n_envs
        self._recurrence = None
        if memory is not None:
            self._recurrence = Recurrence(cast(LstmCriticPolicy, policy), n_steps, memory)
        self._watch: Watch | None = None
        self._critic = KeptCritic(policy)
        self._hidden = list(layers(policy.mlp_extractor.policy_net, policy.action_net))
        self._last, _ = self._hidden.pop()
        weight = self._last.weight.detach()
        self._rooms = [weight.new_empty(n_envs, layer.out_features) for layer, _ in self._hidden]
        self._noise = weight.new_empty(n_envs, self._last.out_features)
        # Logits or means, written here by the last layer
        self._parameters = weight.new_empty(n_steps, *self._noise.shape)
        self._pos = 0

    @abstractmethod
    def act(self, obs: np.ndarray, extras: Mapping[str, np.ndarray] = NO_EXTRAS) -> np.ndarray:
        """Draw an action for each environment.

        :param obs: ``(n_envs, *obs_shape)``
        :param extras: none, since a stock policy takes none
        :return: ``(n_envs, *action_shape)``
        """

    @property
    def memory(self) -> Memory | None:
        """What an LSTM policy knows of the running episodes after the last step."""
        return None if self._recurrence is None else self._recurrence.memory

    def forget(self, episode_starts: np.ndarray) -> None:
        """Know nothing of the episodes that begin.

        :param episode_starts: ``(n_envs,)`` bool
        """
        if self._recurrence is not None and episode_starts.any():
            self._recurrence.forget(episode_starts)

    def watch(self) -> None:
        """Look closely at what the policy is made of, for :meth:`fits` to compare with."""
        self._watch = Watch(self._policy)

    def fits(self, policy: ActorCriticPolicy) -> bool:
        """Whether this is still what the model's policy would do, whatever a callback did to it since :meth:`watch`."""
        is_same = self._watch is not None and self._watch.holds()
        return policy is self._policy and is_same and self._critic.is_unchanged()

    def evaluation(self, observations: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
        """Values of all steps so far, and log-probs of the actions drawn in them.

        :param observations: ``(n_rows, *obs_shape)``, step after step
        :return: ``(n_rows,)`` each
        """
        actions = self._drawn[: self._pos].flatten(0, 1)
        with th.no_grad():
            log_probs = [self._log_prob(rows, actions[rows]) for rows in pieces(len(actions), CACHE_ROWS)]
        seen = observations if self._recurrence is None else self._recurrence.critic_latents()
        return self._critic.values(seen), th.cat(log_probs)

    @abstractmethod
    def _log_prob(self, rows: slice, actions: th.Tensor) -> th.Tensor: ...

    def _parameters_at(self, rows: slice) -> th.Tensor:
        return self._parameters[: self._pos].flatten(0, 1)[rows]


class CategoricalActor(FastActor):
    """In NumPy: on few rows its calls cost less than PyTorch's, on many its tanh does (``docs/speed.md``).

    The very actions that the policy would draw, but for less than one in a million, which a rounding decides.
    """

    def __init__(self, policy: ActorCriticPolicy, n_envs: int, n_steps: int, memory: Memory | None = None):
        super().__init__(policy, n_envs, n_steps, memory)
        self._steps = [
            (_linear(layer, n_envs), room.numpy(), activation)
            for (layer, activation), room in zip(self._hidden, self._rooms, strict=True)
        ]
        self._to_logits, self._logits = _linear(self._last, n_envs), self._parameters.numpy()
        self._noise_array = self._noise.numpy()
        self._actions = np.empty((n_steps, n_envs), dtype=np.int64)
        self._drawn = th.from_numpy(self._actions)

    def act(self, obs: np.ndarray, extras: Mapping[str, np.ndarray] = NO_EXTRAS) -> np.ndarray:
        """See :meth:`FastActor.act`."""
        hidden = np.asarray(obs, dtype=np.float32).reshape(self._n_envs, -1)
        if self._recurrence is not None:
            hidden = self._recurrence.step(th.as_tensor(hidden)).numpy()
        for linear, room, activation in self._steps:
            linear(hidden, room)
            if activation is nn.Tanh:
                np.tanh(room, out=room)
            elif activation is nn.ReLU:
                np.maximum(room, 0.0, out=room)
            hidden = room
        logits, noise = self._logits[self._pos], self._noise_array
        self._to_logits(hidden, logits)
        # torch.multinomial takes the greatest p / e, with e exponential: here, of the logarithms
        self._noise.exponential_().log_()
        actions: np.ndarray = np.subtract(logits, noise, out=noise).argmax(axis=1)
        self._actions[self._pos] = actions
        self._pos += 1
        return actions

    def _log_prob(self, rows: slice, actions: th.Tensor) -> th.Tensor:
        return categorical_log_prob(self._parameters_at(rows), actions)


def _linear(layer: nn.Linear, n_rows: int) -> Callable[[np.ndarray, np.ndarray], None]:
    """The layer, from an array into another: by NumPy, whose calls cost less, unless it would start threads."""
    weight, bias = layer.weight.detach().t(), layer.bias.detach()
    if n_rows * weight.numel() > MAX_PRODUCT_OF_ONE_THREAD:

        def product(hidden: np.ndarray, out: np.ndarray) -> None:
            th.addmm(bias, th.as_tensor(hidden), weight, out=th.from_numpy(out))

    else:
        rows, shift = weight.numpy(), bias.numpy()

        def product(hidden: np.ndarray, out: np.ndarray) -> None:
            np.dot(hidden, rows, out=out)
            out += shift

    return product


class GaussianActor(FastActor):
    """In PyTorch, bit for bit what the policy does: the rounding of an action would go on into the environment."""

    def __init__(self, policy: ActorCriticPolicy, n_envs: int, n_steps: int, memory: Memory | None = None):
        super().__init__(policy, n_envs, n_steps, memory)
        self._shape = (n_envs, *(policy.action_space.shape or ()))
        # A callback may set log_std in the middle of a rollout
        self._stds = policy.log_std.detach().new_empty(n_steps, self._last.out_features)
        self._drawn = th.empty_like(self._parameters)
        self._steps = [
            (layer.weight.detach().t(), layer.bias.detach(), room, activation)
            for (layer, activation), room in zip(self._hidden, self._rooms, strict=True)
        ]
        self._weight, self._bias = self._last.weight.detach().t(), self._last.bias.detach()
        widest = max(layer.weight.numel() for layer in (self._last, *(layer for layer, _ in self._hidden)))
        self._is_small = n_envs * widest <= MAX_PRODUCT_OF_ONE_THREAD

    def act(self, obs: np.ndarray, extras: Mapping[str, np.ndarray] = NO_EXTRAS) -> np.ndarray:
        """See :meth:`FastActor.act`."""
        n_threads = th.get_num_threads()
        if self._is_small:
            th.set_num_threads(1)
        try:
            return self._act(obs)
        finally:
            th.set_num_threads(n_threads)

    def _act(self, obs: np.ndarray) -> np.ndarray:
        hidden = th.as_tensor(obs, dtype=th.float32).reshape(self._n_envs, -1)
        if self._recurrence is not None:
            hidden = self._recurrence.step(hidden)
        for weight, bias, room, activation in self._steps:
            hidden = th.addmm(bias, hidden, weight, out=room)
            if activation is nn.Tanh:
                hidden.tanh_()
            elif activation is nn.ReLU:
                hidden.relu_()
        pos = self._pos
        means = th.addmm(self._bias, hidden, self._weight, out=self._parameters[pos])
        std = th.exp(self._policy.log_std.detach(), out=self._stds[pos])
        drawn = means + self._noise.normal_() * std
        self._drawn[pos] = drawn
        self._pos = pos + 1
        actions: np.ndarray = drawn.reshape(self._shape).numpy()
        return actions

    def _log_prob(self, rows: slice, actions: th.Tensor) -> th.Tensor:
        stds = self._stds[th.arange(rows.start, rows.stop) // self._n_envs]
        log_probs: th.Tensor = Normal(self._parameters_at(rows), stds).log_prob(actions)
        return log_probs.sum(dim=1)
