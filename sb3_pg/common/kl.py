"""How far two policies are apart, and the metric that this makes of the parameters."""

from __future__ import annotations

import copy
from typing import cast

import torch as th
from sb3_contrib.common.utils import conjugate_gradient_solver
from stable_baselines3.common.distributions import Distribution, kl_divergence
from stable_baselines3.common.policies import ActorCriticPolicy
from torch.distributions import Bernoulli, Categorical
from torch.nn import functional as F

from sb3_pg.common.distributed import all_sum
from sb3_pg.common.minibatches import Minibatch, whole_batch
from sb3_pg.common.type_aliases import EpisodeBatch, Observations
from sb3_pg.estimators import kl_estimate


def action_distribution(policy: ActorCriticPolicy, observations: Observations) -> Distribution:
    """The policy's distribution, safe from the next one: a policy of SB3's writes all of them into one object."""
    return copy.copy(policy.get_distribution(observations))


def policy_kl(old: Distribution, new: Distribution, actions: th.Tensor | None = None) -> th.Tensor:
    """KL(old || new) of the joint action: in closed form, or where there is none the estimate from actions of the old.

    :param actions: ``(n_rows, ...)``, needed where there is no closed form
    :return: ``(n_rows,)``; SB3's own leaves the dimensions of Box and MultiBinary actions apart
    """
    ours, theirs = _log_probs(old), _log_probs(new)
    if ours is not None and theirs is not None:
        # PyTorch's own is infinite as soon as a probability of the new one is too small for single precision
        return th.stack([(p.exp() * (p - q)).sum(dim=-1) for p, q in zip(ours, theirs, strict=True)]).sum(dim=0)
    try:
        kl = kl_divergence(old, new)
    except NotImplementedError:
        if actions is None:
            raise
        return kl_estimate(new.log_prob(actions) - old.log_prob(actions))
    joint: th.Tensor = kl.sum(dim=-1) if kl.ndim > 1 else kl
    return joint


def _log_probs(distribution: Distribution) -> list[th.Tensor] | None:
    """``(n_rows, n_values)`` of each dimension of the action; None where the values cannot be counted."""
    inner = distribution.distribution
    dimensions = inner if isinstance(inner, list) else [inner]
    if all(type(one) is Categorical for one in dimensions):
        return [cast(Categorical, one).logits for one in dimensions]
    if type(inner) is Bernoulli:
        return list(th.stack([F.logsigmoid(inner.logits), F.logsigmoid(-inner.logits)], dim=-1).unbind(dim=1))
    return None


def frozen_copy(policy: ActorCriticPolicy) -> ActorCriticPolicy:
    """A policy of the same parameters that does not learn. No random number is drawn on the way.

    A copy of the object and not a new one: SB3's policies do not know all that they were constructed with.
    """
    # The distribution holds intermediate results of the last forward pass, which PyTorch does not copy
    shared = {id(policy.optimizer): None, id(policy.action_dist): copy.copy(policy.action_dist)}
    frozen = copy.deepcopy(policy, shared)
    frozen.requires_grad_(False)
    frozen.set_training_mode(False)
    return frozen


class Divergence:
    """KL(old || new) over the states of a batch, of a policy that learns from what it was.

    :param old: what it was, see :func:`frozen_copy`
    """

    def __init__(
        self, old: ActorCriticPolicy, new: ActorCriticPolicy, batch: EpisodeBatch, micro_batch_size: int | None = None
    ):
        self._old, self._new, self._batch = old, new, batch
        self._micro_batch_size = micro_batch_size

    def mean(self, part: Minibatch | None = None) -> float:
        """The mean over a part of the batch, over all of it if None; of the policy as it acts, in evaluation mode."""
        part = whole_batch(self._batch) if part is None else part
        was_training = self._new.training
        self._new.set_training_mode(False)
        with th.no_grad():
            total = sum(self.summed(rows).double() for _, rows in part.pieces(self._micro_batch_size))
        self._new.set_training_mode(was_training)
        n_rows = all_sum(th.as_tensor(float(part.n_rows)))
        return float(all_sum(th.as_tensor(total)) / n_rows)

    def summed(self, rows: slice | th.Tensor) -> th.Tensor:
        """The sum over some rows, with a gradient."""
        observations = self._batch.observations_at(rows)
        with th.no_grad():
            old = action_distribution(self._old, observations)
        return policy_kl(old, action_distribution(self._new, observations), self._batch.actions[rows]).sum()


class FisherMatrix:
    """F = E_s E_a[s(a|s) s(a|s)^T] of a policy over the states of a batch, as a product with vectors.

    It is the Hessian of E_s KL(pi_theta || pi_theta') at theta' = theta (Kakade 2001, "A natural policy gradient";
    Schulman et al. 2015, "Trust region policy optimization", appendix C).

    :param damping: added to the diagonal
    """

    def __init__(
        self, policy: ActorCriticPolicy, batch: EpisodeBatch, damping: float = 0.0, micro_batch_size: int | None = None
    ):
        self.damping = damping
        self._batch = batch
        self._policy = policy
        self._micro_batch_size = micro_batch_size
        #: The parameters that the policy depends on.
        self.parameters = self._acting_parameters()

    def product(self, vector: th.Tensor) -> th.Tensor:
        """(F + damping I) v.

        :param vector: ``(n_parameters,)``
        :return: ``(n_parameters,)``
        """
        result = self.damping * vector
        for rows in self._batch.micro_batches(self._micro_batch_size):
            slope = th.autograd.grad(self._kl(rows), self.parameters, create_graph=True)
            along = th.cat([part.flatten() for part in slope]) @ vector
            curvature = th.autograd.grad(along, self.parameters)
            result = result + th.cat([part.flatten() for part in curvature])
        return result

    def solve(self, vector: th.Tensor, max_iter: int) -> th.Tensor:
        """(F + damping I)^-1 v by conjugate gradients; 0 for 0.

        The vector is scaled to length 1 first, since the solver stops at an absolute residual.
        """
        norm = float(vector.norm())
        if norm == 0:
            return vector
        solution: th.Tensor = norm * conjugate_gradient_solver(self.product, vector / norm, max_iter=max_iter)
        return solution

    def _acting_parameters(self) -> list[th.nn.Parameter]:
        candidates = [parameter for parameter in self._policy.parameters() if parameter.requires_grad]
        slope: tuple[th.Tensor | None, ...] = th.autograd.grad(self._kl(slice(0, 1)), candidates, allow_unused=True)
        return [parameter for parameter, part in zip(candidates, slope, strict=True) if part is not None]

    def _kl(self, rows: slice) -> th.Tensor:
        """Some rows' share of the mean KL from the policy as it is to the policy as a variable."""
        observations = self._batch.observations_at(rows)
        with th.no_grad():
            here = action_distribution(self._policy, observations)
        there = action_distribution(self._policy, observations)
        return policy_kl(here, there).sum() / self._batch.episodes.n_rows
