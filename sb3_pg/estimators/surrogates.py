"""The scalar whose gradient is the estimate: one backward pass instead of one a step."""

from __future__ import annotations

import torch as th

from sb3_pg.estimators.episodes import check_rows
from sb3_pg.estimators.importance import importance_weights


def score_function_surrogate(log_prob: th.Tensor, weights: th.Tensor, divisor: th.Tensor | float) -> th.Tensor:
    """(1/divisor) sum over rows of weight * log pi(a|s), with the weights held constant.

    Its gradient is (1/divisor) sum weight * grad log pi(a|s), the REINFORCE estimate (Williams 1992,
    "Simple statistical gradient-following algorithms for connectionist reinforcement learning"). The log-prob of an
    action is the joint one, summed over action dimensions: one entry a row.

    :param log_prob: ``(n_rows,)`` log pi_theta(a|s), with a gradient.
    :param weights: ``(n_rows,)`` what the step is worth; no gradient flows into it.
    :param divisor: see :func:`~sb3_pg.estimators.reductions.loss_divisor`; that of the whole batch where the rows are
        a part of one.
    :return: scalar, to be maximised
    """
    if log_prob.ndim != 1:
        raise ValueError(
            f"log_prob must be the joint log-probability of each action, shape (n_rows,), got {tuple(log_prob.shape)}"
        )
    check_rows("weights", weights, len(log_prob))
    return (weights.detach() * log_prob).sum() / divisor


def clipped_surrogate(
    log_ratios: th.Tensor, weights: th.Tensor, clip_range: float, divisor: th.Tensor | float
) -> th.Tensor:
    """(1/divisor) sum over rows of min(rho * weight, clip(rho, 1 - eps, 1 + eps) * weight).

    Schulman et al. 2017, "Proximal policy optimization algorithms", eq. 7. Where the weight is negative, a rho above
    1 + eps is not clipped: nothing stops a step away from an action that has become too likely.

    :param log_ratios: ``(n_rows,)`` log rho, with a gradient
    :param weights: ``(n_rows,)`` the advantages; no gradient flows into them
    :param clip_range: eps
    :param divisor: as of :func:`score_function_surrogate`
    :return: scalar, to be maximised
    """
    if log_ratios.ndim != 1:
        raise ValueError(f"log_ratios must have shape (n_rows,), got {tuple(log_ratios.shape)}")
    check_rows("weights", weights, len(log_ratios))
    if not clip_range >= 0:
        raise ValueError(f"clip_range must be a number >= 0, got {clip_range}")
    # exp with its gradient, but finite where exp is not
    ratios = importance_weights(log_ratios.detach()) * (1 + log_ratios - log_ratios.detach())
    weights = weights.detach()
    return th.min(weights * ratios, weights * ratios.clamp(1 - clip_range, 1 + clip_range)).sum() / divisor
