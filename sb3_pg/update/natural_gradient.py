"""The natural gradient: the metric that the divergence of policies makes of their parameters."""

from __future__ import annotations

from collections.abc import Iterator

import torch as th
from sb3_contrib.common.utils import conjugate_gradient_solver
from stable_baselines3.common.policies import ActorCriticPolicy

from sb3_pg.data.batch import EpisodeBatch
from sb3_pg.data.distributed import all_count, all_sum, same_random_numbers
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
        self._n_rows = all_count(batch.n_rows)
        self._policy = policy
        self._micro_batch_size = micro_batch_size
        self._slope: th.Tensor | None = None
        #: The parameters that the policy depends on.
        self.parameters = self._acting_parameters()

    def product(self, vector: th.Tensor) -> th.Tensor:
        """(F + damping I) v.

        :param vector: ``(n_parameters,)``
        :return: ``(n_parameters,)``
        """
        result = th.zeros_like(vector)
        for slope in self._slopes():
            curvature = th.autograd.grad(slope @ vector, self.parameters, retain_graph=self._slope is not None)
            result = result + th.cat([part.flatten() for part in curvature])
        return self.damping * vector + all_sum(result)

    def _slopes(self) -> Iterator[th.Tensor]:
        """``(n_parameters,)`` the gradient of each piece's KL, with a graph; that of a single piece is kept."""
        if self._slope is not None:
            yield self._slope
            return
        pieces = list(self._pieces()) if self._batch.n_rows > 0 else []  # a worker's may have none
        for rows in pieces:
            slope = th.autograd.grad(self._kl(rows), self.parameters, create_graph=True)
            flat = th.cat([part.flatten() for part in slope])
            self._slope = flat if len(pieces) == 1 else None
            yield flat

    def solve(self, vector: th.Tensor, max_iter: int) -> th.Tensor:
        """(F + damping I)^-1 v by conjugate gradients; 0 for 0.

        The vector is scaled to length 1 first, since the solver stops at an absolute residual.
        """
        norm = float(vector.norm())
        if norm == 0:
            return vector
        with same_random_numbers(vector.device):  # of which the solver's first guess is made
            solution: th.Tensor = conjugate_gradient_solver(self.product, vector / norm, max_iter=max_iter)
        return norm * solution

    def _acting_parameters(self) -> list[th.nn.Parameter]:
        candidates = [parameter for parameter in self._policy.parameters() if parameter.requires_grad]
        slope: tuple[th.Tensor | None, ...] = (None,) * len(candidates)
        # Of one row, or one episode; not that of a frozen actor
        if self._batch.n_rows > 0 and (kl := self._kl(next(self._pieces(1)))).requires_grad:
            slope = th.autograd.grad(kl, candidates, allow_unused=True)
        acts = all_sum(th.tensor([float(part is not None) for part in slope])).tolist()
        return [parameter for parameter, does in zip(candidates, acts, strict=True) if does]

    def _pieces(self, size: int | None = None) -> Iterator[slice]:
        """All rows, in pieces of about so many; of ``micro_batch_size`` if None."""
        size = self._micro_batch_size if size is None else size
        return (where for where, _ in pieces_for(self._policy, whole_batch(self._batch), size))

    def _kl(self, rows: slice) -> th.Tensor:
        """Some rows' share of the mean KL, over all workers, from the policy as it is to the policy as a variable."""
        steps = self._batch.at(rows)
        with evaluation_mode(self._policy):
            with th.no_grad():
                here = action_distribution(self._policy, steps)
            there = action_distribution(self._policy, steps)
        # Where it has no closed form, the Hessian of its estimate is the mean of s s^T over the actions of the batch
        return policy_kl(here, there, steps.actions).sum() / self._n_rows


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
