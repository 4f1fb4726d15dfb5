"""Notices what a callback did to a stock policy in the middle of a rollout, at the cost of a few microseconds."""

from __future__ import annotations

from itertools import chain
from typing import Any

from stable_baselines3.common.policies import ActorCriticPolicy
from torch import nn

from sb3_pg.policies.fast.stock import containers, is_stock, is_stock_lstm, layers_of, recurrent_parts


class Watch:
    """Whether a policy is still made of the same parts, and still does what they do and nothing else.

    Numbers written into the parameters are not its concern.

    :param policy: for which :func:`~sb3_pg.policies.fast.stock.is_stock` holds, or ``is_stock_lstm``
    """

    def __init__(self, policy: ActorCriticPolicy):
        self._policy = policy
        self._distribution = policy.action_dist
        modules = [*containers(policy), *recurrent_parts(policy), *layers_of(policy)]
        self._parts = [(one._modules, name, part) for one in modules for name, part in one._modules.items()]
        tensors = [(one._parameters, name, part) for one in modules for name, part in one._parameters.items()]
        self._tensors = [(where, name, part, part.data_ptr()) for where, name, part in tensors if part is not None]
        # A method replaced on an object is one more attribute; dictionaries of hooks are empty
        self._attributes = [(one.__dict__, len(one.__dict__)) for one in modules]
        self._sizes = [(one._modules, len(one._modules)) for one in modules]
        self._hooks = list(chain.from_iterable(map(_hooks_of, modules)))

    def holds(self) -> bool:
        """Whether nothing was replaced, added or hooked."""
        if (
            self._policy.action_dist is not self._distribution
            or any(self._hooks)
            or any(where.get(name) is not part for where, name, part in self._parts)
            or any(len(where) != size for where, size in self._sizes)
            or any(
                where.get(name) is not part or part.data_ptr() != address
                for where, name, part, address in self._tensors
            )
        ):
            return False
        # A user's own attribute does no harm: the long way round
        is_whole = all(len(where) == size for where, size in self._attributes)
        return is_whole or is_stock(self._policy) or is_stock_lstm(self._policy)


def _hooks_of(module: nn.Module) -> list[Any]:
    """The dictionaries of those who listen to its passes."""
    return [module._forward_hooks, module._forward_pre_hooks, module._backward_hooks, module._backward_pre_hooks]
