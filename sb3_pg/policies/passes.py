"""A policy's passes over the rows of a batch: SB3's own, and quicker ones where nothing has to be SB3's to the bit.

The gradient of an actor-critic's rows in one piece goes through the policy itself: configured as A2C or PPO, an update
is theirs to the bit. Pieces add up to the same but for rounding anyway, and SB3 has neither a policy without a critic
nor a critic with an optimizer of its own: there, a stock policy's layers are run without the objects around them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import nn

from sb3_pg.data.batch import EpisodeBatch, Observations, Steps
from sb3_pg.data.minibatches import Minibatch, whole_batch
from sb3_pg.estimators import EpisodeIndex
from sb3_pg.policies.actor import WithoutCritic
from sb3_pg.policies.contexts import distribution_left_alone, evaluation_mode
from sb3_pg.policies.evaluation import evaluate_actions, pieces_for, predict_values
from sb3_pg.policies.fast.stock import is_stock, layers, log_prob_and_entropy
from sb3_pg.policies.sequence.sequences import remembering


class Passes:
    """Evaluates rows of a batch.

    :param n_rows: how many there are in all
    :param micro_batch_size: how many at most are given at a time, None for all at once
    :param known_to_sb3: whether SB3's algorithms make these passes too, and theirs to the bit are wanted
    """

    def __init__(self, policy: ActorCriticPolicy, n_rows: int, micro_batch_size: int | None, known_to_sb3: bool):
        in_pieces = micro_batch_size is not None and n_rows > micro_batch_size
        is_sb3s = known_to_sb3 and not isinstance(policy, WithoutCritic)
        self._policy = policy
        self._is_quick = (in_pieces or not is_sb3s) and is_stock(policy)

    def evaluate(
        self, steps: Steps, values: bool = False, entropy_gradient: bool = False
    ) -> tuple[th.Tensor | None, th.Tensor, th.Tensor | None]:
        """As the policy's ``evaluate_actions``.

        :param values: whether they are needed, else they may be missing
        :param entropy_gradient: whether the entropies' gradient is needed, else it may be missing
        :return: values ``(n_rows, 1)`` or None, log-probs ``(n_rows,)``, entropies ``(n_rows,)`` or None
        """
        if len(steps.actions) == 0:  # a worker's that has no rows, which PyTorch's distributions do not take
            nothing = self._nothing
            return nothing[:, None], nothing, nothing
        if not self._is_quick or isinstance(steps.observations, dict):
            return evaluate_actions(self._policy, steps)
        parameters = _through(self._policy.mlp_extractor.policy_net, self._policy.action_net, steps.observations)
        log_prob, entropy = log_prob_and_entropy(self._policy, parameters, steps.actions, entropy_gradient)
        return self.values(steps) if values else None, log_prob, entropy

    def values(self, steps: Steps) -> th.Tensor:
        """As the policy's ``predict_values``.

        :return: ``(n_rows, 1)``
        """
        if len(steps.actions) == 0:
            return self._nothing[:, None]
        if not self._is_quick or isinstance(steps.observations, dict):
            return predict_values(self._policy, steps)
        return _through(self._policy.mlp_extractor.value_net, self._policy.value_net, steps.observations)

    @property
    def _nothing(self) -> th.Tensor:
        """``(0,)`` numbers of the policy's kind."""
        return next(self._policy.parameters()).new_zeros(0)


def all_log_probs(
    policy: ActorCriticPolicy, batch: EpisodeBatch, part: Minibatch, micro_batch_size: int | None
) -> th.Tensor:
    """``(n_rows,)`` log-prob of the actions of a part of the batch, without a gradient."""
    passes = Passes(policy, part.n_rows, micro_batch_size, known_to_sb3=False)
    with th.no_grad(), distribution_left_alone(policy):
        log_probs = [passes.evaluate(batch.at(rows))[1] for _, rows in pieces_for(policy, part, micro_batch_size)]
    return th.cat(log_probs)


def all_values(policy: ActorCriticPolicy, batch: EpisodeBatch, micro_batch_size: int | None) -> th.Tensor:
    """``(n_rows,)`` the critic's values of a batch's observations, in evaluation mode, without a gradient."""
    passes = Passes(policy, batch.n_rows, micro_batch_size, known_to_sb3=False)
    with th.no_grad(), evaluation_mode(policy):
        pieces = pieces_for(policy, whole_batch(batch), micro_batch_size)
        return th.cat([passes.values(batch.at(rows)).flatten() for _, rows in pieces])


def all_last_values(policy: ActorCriticPolicy, batch: EpisodeBatch) -> th.Tensor:
    """``(n_episodes,)`` the critic's values of a batch's ``last_observations``, as :func:`all_values` gives them."""
    if batch.episodes.n_episodes == 0:  # a worker's that has none
        return batch.last_values
    with th.no_grad(), evaluation_mode(policy):
        if remembering(policy) is None:
            return policy.predict_values(batch.last_observations).flatten()  # type: ignore[arg-type]
        steps, is_last = _with_last_observations(batch)
        return predict_values(policy, steps)[is_last].flatten()


def _with_last_observations(batch: EpisodeBatch) -> tuple[Steps, th.Tensor]:
    """Every episode with what was observed after its last row as one row more, as values are asked for.

    :return: all rows, and ``(n_rows,)`` bool, which are those
    """
    index = EpisodeIndex.from_lengths(batch.episodes.lengths + 1)
    is_last = index.remaining == 0

    def both(rows: th.Tensor, last: th.Tensor) -> th.Tensor:
        joined = rows.new_zeros(index.n_rows, *rows.shape[1:])
        joined[~is_last], joined[is_last] = rows, last
        return joined

    observations: Observations
    if isinstance(batch.observations, dict):
        last: Any = batch.last_observations
        observations = {key: both(rows, last[key]) for key, rows in batch.observations.items()}
    else:
        observations = both(batch.observations, batch.last_observations)  # type: ignore[arg-type]
    actions = both(batch.actions, batch.actions.new_zeros(()))
    return Steps(observations, actions, episode=index.episode, memory=batch.memory), is_last


def _through(net: nn.Sequential, head: nn.Module, observations: th.Tensor) -> th.Tensor:
    """What the head says of the observations."""
    hidden = through(layers(net, head), observations)
    result: th.Tensor = hidden if isinstance(head, nn.Linear) else head(hidden)
    return result


def through(
    steps: Iterable[tuple[Callable[[th.Tensor], th.Tensor], type[nn.Module] | None]], observations: th.Tensor
) -> th.Tensor:
    """The observations after some linear maps, each with the kind of activation that follows it."""
    hidden = observations.float().flatten(1)
    for linear, activation in steps:
        hidden = linear(hidden)
        if activation is nn.Tanh:
            hidden = _Tanh.apply(hidden)
        elif activation is nn.ReLU:
            hidden = hidden.relu_()
    return hidden


class _Tanh(th.autograd.Function):
    """NumPy's tanh, in place, with PyTorch's derivative: much faster on the CPU (``docs/speed.md``)."""

    @staticmethod
    def forward(ctx: Any, hidden: th.Tensor) -> th.Tensor:
        array = hidden.detach().numpy()
        np.tanh(array, out=array)
        ctx.mark_dirty(hidden)
        ctx.save_for_backward(hidden)
        return hidden

    @staticmethod
    def backward(ctx: Any, gradient: th.Tensor) -> th.Tensor:
        (output,) = ctx.saved_tensors
        slope: th.Tensor = th.ops.aten.tanh_backward(gradient, output)
        return slope
