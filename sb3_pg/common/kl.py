"""How far two policies are apart, and the metric that this makes of the parameters."""

from __future__ import annotations

import copy

import torch as th
from sb3_contrib.common.utils import conjugate_gradient_solver
from stable_baselines3.common.distributions import Distribution, kl_divergence
from stable_baselines3.common.policies import ActorCriticPolicy

from sb3_pg.common.type_aliases import EpisodeBatch, Observations


def action_distribution(policy: ActorCriticPolicy, observations: Observations) -> Distribution:
    """The policy's distribution, safe from the next one: a policy of SB3's writes all of them into one object."""
    return copy.copy(policy.get_distribution(observations))


def policy_kl(old: Distribution, new: Distribution) -> th.Tensor:
    """KL(old || new) of the joint action, in closed form.

    :return: ``(n_rows,)``; SB3's own leaves the dimensions of Box and MultiBinary actions apart
    """
    kl = kl_divergence(old, new)
    joint: th.Tensor = kl.sum(dim=-1) if kl.ndim > 1 else kl
    return joint


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
