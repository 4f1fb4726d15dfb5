"""How far an update may go: three rules that keep KL(old || new) near or below a bound."""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import Literal

import torch as th

from sb3_pg.data.minibatches import Minibatch
from sb3_pg.policies.divergence import Divergence
from sb3_pg.update.gradient import Penalty

KLConstraint = Literal["stop", "backtrack", "penalty"]

#: SB3's PPO takes no further step once the KL is this many times the target.
STOP_FACTOR = 1.5
#: How often a step is halved before it is given up.
MAX_HALVINGS = 10


class TrustRegion:
    """One update's trust region.

    :param target_kl: the bound; None for no trust region
    :param kl_constraint: ``"stop"``: no further step once the KL is 1.5 times the bound, as in SB3's PPO (but in closed
        form); ``"backtrack"``: a step that would pass the bound is undone and halved, until it does not;
        ``"penalty"``: kl_coef * KL is part of the loss
    :param newest: the rows that this iteration sampled, over whose states the bound holds
    :param critic: parameters of the critic alone, if they are in the same optimizer: no bound holds them back
    """

    def __init__(
        self,
        target_kl: float | None,
        kl_constraint: KLConstraint,
        kl_coef: float,
        divergence: Divergence,
        newest: Minibatch,
        critic: Collection[th.Tensor] = (),
    ):
        self.target_kl = target_kl
        self.kl_constraint = kl_constraint if target_kl is not None else None
        self.kl_coef = kl_coef
        self.divergence = divergence
        self.newest = newest
        self.critic = set(critic)

    def must_stop(self, part: Minibatch) -> bool:
        """Whether the policy has gone too far for another step, on these rows."""
        return self.kl_constraint == "stop" and self.divergence.mean(part) > STOP_FACTOR * self._bound

    def step(self, optimizer: th.optim.Optimizer) -> bool:
        """The optimizer's step, or what of it stays within the bound; the optimizer's moments keep it all.

        :return: False if nothing of it did; the actor's parameters are then as they were
        """
        if self.kl_constraint != "backtrack":
            optimizer.step()
            return True
        with self.divergence.evaluation_mode():
            return backtracking_step(optimizer, self._is_within_bound, self.critic, 0.5, 1 + MAX_HALVINGS)

    def _is_within_bound(self) -> bool:
        return self.measure() <= self._bound

    def measure(self) -> float:
        """KL(old || new) over the newest rows."""
        return self.divergence.mean(self.newest)

    @property
    def penalties(self) -> dict[str, Penalty]:
        """kl_coef times the KL; none where it is no part of the loss."""
        if self.kl_constraint != "penalty":
            return {}
        return {"kl_penalty": lambda rows: self.kl_coef * self.divergence.summed(rows)}

    def adapted_coef(self, kl: float) -> float:
        """The next kl_coef: twice as large if the KL came out above 1.5 times the target, half if below 2/3 of it.

        Schulman et al. 2017, "Proximal policy optimization algorithms", section 4.
        """
        if self.kl_constraint != "penalty":
            return self.kl_coef
        if kl > 1.5 * self._bound:
            return min(2 * self.kl_coef, 1e6)
        return max(self.kl_coef / 2, 1e-6) if kl < self._bound / 1.5 else self.kl_coef

    @property
    def _bound(self) -> float:
        return float("inf") if self.target_kl is None else self.target_kl


def backtracking_step(
    optimizer: th.optim.Optimizer,
    is_acceptable: Callable[[], bool],
    left_alone: Collection[th.Tensor],
    shrinking_factor: float,
    max_iter: int,
) -> bool:
    """The optimizer's step, or the longest of shorter and shorter ones that is acceptable.

    :param is_acceptable: of the parameters as they are; a ValueError, PyTorch's for parameters that are no
        distribution's, means no
    :param left_alone: parameters that take their whole step, whatever becomes of the others
    :param shrinking_factor: length of each try, as a share of the one before
    :param max_iter: how many tries
    :return: False if none was acceptable; the parameters are then as they were
    """
    everything = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    parameters = [parameter for parameter in everything if parameter not in left_alone]
    before = [parameter.detach().clone() for parameter in parameters]
    accepted = False
    try:
        optimizer.step()
        for attempt in range(max_iter):
            if attempt > 0:
                _shrink(parameters, before, shrinking_factor)
            try:
                accepted = is_acceptable()
            except ValueError:
                accepted = False
            if accepted:
                break
    finally:  # Ctrl-C too
        if not accepted:
            _restore(parameters, before)
    return accepted


@th.no_grad()
def _shrink(parameters: list[th.Tensor], before: list[th.Tensor], factor: float) -> None:
    """Go back to a share of the way."""
    for parameter, was in zip(parameters, before, strict=True):
        parameter.lerp_(was, 1 - factor)


@th.no_grad()
def _restore(parameters: list[th.Tensor], before: list[th.Tensor]) -> None:
    for parameter, was in zip(parameters, before, strict=True):
        parameter.copy_(was)
