"""The guard before a step of an optimizer."""

from __future__ import annotations

import math

import torch as th


def guarded_clip(optimizer: th.optim.Optimizer, loss: th.Tensor, max_grad_norm: float | None) -> float:
    """Clip the gradient, unless loss or gradient are not finite: the one time in a step that the device is waited for.

    :param loss: a scalar
    :return: the norm of the gradient before it was clipped
    :raises ValueError: before any parameter changes
    """
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    limit = math.inf if max_grad_norm is None else max_grad_norm
    clipped = th.nn.utils.clip_grad_norm_(parameters, limit)
    value, norm = th.stack([loss, clipped.to(loss)]).tolist()
    if not (math.isfinite(value) and math.isfinite(norm)):
        optimizer.zero_grad()
        raise ValueError(
            f"The loss ({value}) or the norm of its gradient ({norm}) is not finite. No parameter was changed by this "
            "step, the model can be saved. Lower the learning rate, or scale rewards and observations (VecNormalize)."
        )
    return float(norm)
