"""How far two policies are apart."""

from __future__ import annotations

import copy
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any, cast

import torch as th
from sb3_contrib.common.maskable.distributions import MaskableCategorical
from stable_baselines3.common.distributions import Distribution, kl_divergence
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.utils import obs_as_tensor
from torch.distributions import Bernoulli, Categorical, Normal
from torch.nn import functional as F

from sb3_pg.data.batch import EpisodeBatch, Steps
from sb3_pg.data.distributed import all_count, all_sum, failing_together
from sb3_pg.data.minibatches import Minibatch, whole_batch
from sb3_pg.estimators import kl_estimate
from sb3_pg.policies.contexts import evaluation_mode
from sb3_pg.policies.evaluation import NO_EXTRAS, act, action_distribution, empty_memory, pieces_for
from sb3_pg.policies.parameters import two_observations

Rows = slice | th.Tensor


def policy_kl(old: Distribution, new: Distribution, actions: th.Tensor | None = None) -> th.Tensor:
    """KL(old || new) of the joint action: in closed form, or where there is none the estimate from actions of the old.

    :param actions: ``(n_rows, ...)``, needed where there is no closed form
    :return: ``(n_rows,)``; SB3's own leaves the dimensions of Box and MultiBinary actions apart
    """
    ours, theirs = _log_probs(old), _log_probs(new)
    if ours is not None and theirs is not None:
        return th.stack([_categorical_kl(p, q) for p, q in zip(ours, theirs, strict=True)]).sum(dim=0)
    try:
        kl = kl_divergence(old, new)
    except NotImplementedError:
        if actions is None:
            raise
        return kl_estimate(new.log_prob(actions) - old.log_prob(actions))
    joint: th.Tensor = kl.sum(dim=-1) if kl.ndim > 1 else kl
    return joint


def _categorical_kl(p: th.Tensor, q: th.Tensor) -> th.Tensor:
    """``(n_rows,)`` from log-probs ``(n_rows, n_values)`` each.

    PyTorch's own is infinite as soon as a probability of the new one is too small for single precision. A value that is
    never drawn, because it is masked, adds exactly 0, also where its log-probs are infinite.
    """
    probability = p.exp()
    return (probability * th.where(probability > 0, p - q, 0.0)).sum(dim=-1)


def _inner(distribution: Distribution) -> Any:
    """What a distribution of SB3's, or a maskable one of sb3-contrib's, is made of: one of PyTorch's, or a list."""
    return getattr(distribution, "distributions", None) or getattr(distribution, "distribution", None)


def _is_categorical(inner: object) -> bool:
    return type(inner) in (Categorical, MaskableCategorical)


def _log_probs(distribution: Distribution) -> list[th.Tensor] | None:
    """``(n_rows, n_values)`` of each dimension of the action; None where the values cannot be counted."""
    inner = _inner(distribution)
    dimensions = inner if isinstance(inner, list) else [inner]
    if all(map(_is_categorical, dimensions)):
        return [cast(Categorical, one).logits for one in dimensions]
    if type(inner) is Bernoulli:
        return list(th.stack([F.logsigmoid(inner.logits), F.logsigmoid(-inner.logits)], dim=-1).unbind(dim=1))
    return None


def frozen_copy(policy: ActorCriticPolicy) -> ActorCriticPolicy:
    """A policy of the same parameters that does not learn. No random number is drawn on the way.

    A copy of the object and not a new one: SB3's policies do not know all that they were constructed with, and a user's
    may be more than its parameters.
    """
    # The distribution holds intermediate results of the last forward pass, which PyTorch does not copy
    distribution = getattr(policy, "action_dist", None)
    shared: dict[int, Any] = {id(policy.optimizer): None, id(distribution): copy.copy(distribution)}
    # As may a module: a weight that a hook computed, features that the user looks at
    for value in [value for module in policy.modules() for value in vars(module).values()]:
        if isinstance(value, th.Tensor) and not value.is_leaf:
            shared[id(value)] = value.detach().clone()
    frozen = copy.deepcopy(policy, shared)
    frozen.requires_grad_(False)
    frozen.set_training_mode(False)
    return frozen


def has_closed_form(policy: ActorCriticPolicy, other: ActorCriticPolicy) -> bool:
    """Whether :func:`policy_kl` between the two needs no actions; tried on two observations."""
    observations = obs_as_tensor(two_observations(policy.observation_space), policy.device)
    episode = th.arange(2, device=policy.device)
    with th.random.fork_rng(devices=[]), th.no_grad(), evaluation_mode(policy):
        drawn = act(policy, observations, NO_EXTRAS, empty_memory(policy, 2))
        steps = Steps(observations, drawn.actions, drawn.latents, episode)
        one, another = (action_distribution(each, steps) for each in (policy, other))
        try:
            policy_kl(one, another)
        except (NotImplementedError, AssertionError):  # SB3's assert is for distributions of two kinds
            return False
    return True


class Divergence:
    """KL(old || new) over the states of a batch, old being what the policy is when this is made.

    The old distributions are computed once.
    """

    def __init__(self, policy: ActorCriticPolicy, batch: EpisodeBatch, micro_batch_size: int | None = None):
        self._policy, self._batch = policy, batch
        self._micro_batch_size = micro_batch_size
        with th.no_grad(), evaluation_mode(policy):
            self._old = self._distributions()

    def _distributions(self) -> Callable[[Rows], Distribution]:
        """From rows to the distributions that the policy has there now."""
        parts = [
            action_distribution(self._policy, self._batch.at(rows))
            for _, rows in pieces_for(self._policy, whole_batch(self._batch), self._micro_batch_size)
            if self._batch.n_rows > 0
        ]
        kept = _joined(parts) if parts else None
        if kept is not None:
            return kept
        frozen, batch = frozen_copy(self._policy), self._batch
        return lambda rows: action_distribution(frozen, batch.at(rows))

    def mean(self, part: Minibatch | None = None) -> float:
        """The mean over a part of the batch, over all of it if None; of the policy as it acts, in evaluation mode."""
        part = whole_batch(self._batch) if part is None else part
        with failing_together(), th.no_grad(), evaluation_mode(self._policy):
            pieces = pieces_for(self._policy, part, self._micro_batch_size)
            total = sum(self.summed(rows).double() for _, rows in pieces)
        return float(all_sum(th.as_tensor(total))) / all_count(part.n_rows)

    def evaluation_mode(self) -> AbstractContextManager[None]:
        """For several means in a row: the mode of a policy is not switched for nothing."""
        return evaluation_mode(self._policy)

    def summed(self, rows: Rows) -> th.Tensor:
        """The sum over some rows, with a gradient."""
        actions = self._batch.actions[rows]
        if len(actions) == 0:
            return self._batch.behaviour_log_prob.new_zeros(())
        with th.no_grad():
            old = self._old(rows)
        new = action_distribution(self._policy, self._batch.at(rows))
        return policy_kl(old, new, actions).sum()


def _joined(parts: list[Distribution]) -> Callable[[Rows], Distribution] | None:
    """From rows to their distributions, of SB3's kinds; None for another kind, whose parameters are not known.

    :param parts: of one piece of the rows after the other
    """
    inner = [_inner(part) for part in parts]

    def around(distribution: object) -> Distribution:
        whole = copy.copy(parts[0])
        setattr(whole, "distributions" if hasattr(whole, "distributions") else "distribution", distribution)
        return whole

    if all(map(_is_categorical, inner)):
        logits = th.cat([cast(Categorical, one).logits for one in inner])
        return lambda rows: around(Categorical(logits=logits[rows]))
    if all(isinstance(one, list) and all(map(_is_categorical, one)) for one in inner):
        lists = cast("list[list[Categorical]]", inner)
        columns = [th.cat([one.logits for one in column]) for column in zip(*lists, strict=True)]
        return lambda rows: around([Categorical(logits=column[rows]) for column in columns])
    if all(type(one) is Bernoulli for one in inner):
        bits = th.cat([cast(Bernoulli, one).logits for one in inner])
        return lambda rows: around(Bernoulli(logits=bits[rows]))
    if all(type(one) is Normal for one in inner):
        means, stds = (th.cat([getattr(one, name) for one in inner]) for name in ("loc", "scale"))
        return lambda rows: around(Normal(means[rows], stds[rows]))
    return None
