"""Importance weights: what a step is worth that another policy sampled. Everything is computed in log space."""

from __future__ import annotations

import math

import torch as th

from sb3_pg.estimators.baselines import AllSum, alone
from sb3_pg.estimators.episodes import check_rows


def timestep_weights(log_prob: th.Tensor, behaviour_log_prob: th.Tensor, max_weight: float = math.inf) -> th.Tensor:
    """min(rho, max_weight) with rho = pi_theta(a|s) / pi_behaviour(a|s), a ratio a row.

    Weighting each score by its own rho gives the gradient of E_{s~behaviour} E_{a~pi_theta}[Q_behaviour(s,a)]
    (the surrogate of TRPO and PPO): exact in the action, not in the states and returns that an earlier policy led
    to. Truncation: Ionides 2008, "Truncated importance sampling".

    :param log_prob: ``(n_rows,)`` under the parameters being updated.
    :param behaviour_log_prob: ``(n_rows,)`` under the parameters that sampled the action.
    :return: ``(n_rows,)``, finite where max_weight is
    """
    if log_prob.ndim != 1:
        raise ValueError(f"log_prob must have shape (n_rows,), got {tuple(log_prob.shape)}")
    check_rows("behaviour_log_prob", behaviour_log_prob, len(log_prob))
    if not max_weight > 0:
        raise ValueError(f"max_weight must be a number > 0, got {max_weight}")
    return (log_prob - behaviour_log_prob).clamp(max=math.log(max_weight)).exp()


def effective_sample_size(weights: th.Tensor, all_sum: AllSum = alone) -> th.Tensor:
    """ESS = (sum w)^2 / (n sum w^2), as a fraction of the sample: 1 for equal weights (Kong 1992).

    :param weights: ``(n,)``, not negative
    :return: scalar in (0, 1]; 0 where every weight is 0
    """
    total, squares = all_sum(weights.sum()), all_sum((weights**2).sum())
    n = all_sum(weights.new_tensor(float(weights.numel())))
    return th.where(squares > 0, total**2 / (n * squares), 0.0)
