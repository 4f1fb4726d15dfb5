"""The natural gradient: the metric that the divergence of policies makes of their parameters."""

from __future__ import annotations

from collections.abc import Iterator

import torch as th
from sb3_contrib.common.utils import conjugate_gradient_solver
from stable_baselines3.common.policies import ActorCriticPolicy

from sb3_pg.data.batch import EpisodeBatch
from sb3_pg.data.minibatches import whole_batch
from sb3_pg.policies.contexts import evaluation_mode
from sb3_pg.policies.divergence import policy_kl
from sb3_pg.policies.evaluation import action_distribution, pieces_for


class FisherMatrix:
    """F = E_s E_a[s(a|s) s(a|s)^T] of a policy over the states of a batch, as a product with vectors.

    It is the Hessian of E_s KL(pi_theta || pi_theta') at theta' = theta (Kakade 2001, "A natural policy gradient";
    Schulman et al. 2015, "Trust region policy optimization", appendix C). The policy is taken as it acts, in evaluation
    mode, so that all products are with one and the same matrix.

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
        for rows in self._pieces():
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
        kl = self._kl(next(self._pieces(1)))  # of one row, or one episode
        if not kl.requires_grad:  # a frozen actor
            return []
        slope: tuple[th.Tensor | None, ...] = th.autograd.grad(kl, candidates, allow_unused=True)
        return [parameter for parameter, part in zip(candidates, slope, strict=True) if part is not None]

    def _pieces(self, size: int | None = None) -> Iterator[slice]:
        """All rows, in pieces of about so many; of ``micro_batch_size`` if None."""
        size = self._micro_batch_size if size is None else size
        return (where for where, _ in pieces_for(self._policy, whole_batch(self._batch), size))

    def _kl(self, rows: slice) -> th.Tensor:
        """Some rows' share of the mean KL from the policy as it is to the policy as a variable."""
        steps = self._batch.at(rows)
        with evaluation_mode(self._policy):
            with th.no_grad():
                here = action_distribution(self._policy, steps)
            there = action_distribution(self._policy, steps)
        try:
            return policy_kl(here, there).sum() / self._batch.episodes.n_rows
        except NotImplementedError as error:
            raise ValueError(
                "A natural gradient needs KL(old || new) in closed form, and PyTorch knows none for this policy's "
                f"{type(here).__name__}: write natural_gradient=False, or torch.distributions.register_kl"
            ) from error


def make_natural(
    policy: ActorCriticPolicy,
    batch: EpisodeBatch,
    damping: float,
    max_iter: int,
    micro_batch_size: int | None,
    target_kl: float | None = None,
) -> None:
    """Turn the gradient g, in the ``.grad`` of the parameters that the policy depends on, into F^-1 g.

    :param max_iter: iterations of the conjugate gradients
    :param target_kl: scale it to the length at which, to second order, KL(old || new) is this:
        sqrt(2 target_kl / x^T (F + damping I) x) x with x = F^-1 g (Schulman et al. 2015, appendix C); None: as it is
    """
    fisher = FisherMatrix(policy, batch, damping, micro_batch_size)
    gradients = [
        th.zeros_like(parameter) if parameter.grad is None else parameter.grad for parameter in fisher.parameters
    ]
    if not gradients:
        return
    direction = fisher.solve(th.cat([gradient.flatten() for gradient in gradients]), max_iter)
    if target_kl is not None and bool(direction.any()):
        direction = direction * (2 * target_kl / (direction @ fisher.product(direction))).sqrt()
    lengths = [gradient.numel() for gradient in gradients]
    for parameter, part in zip(fisher.parameters, direction.split(lengths), strict=True):
        parameter.grad = part.view_as(parameter).clone()
