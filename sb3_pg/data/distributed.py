"""The one seam through which every statistic of a batch goes: means, deviations, counts.

A run of one worker sums over itself. Data-parallel training replaces :func:`all_sum`, and nothing else.
"""

from __future__ import annotations

import math

import torch as th


def all_sum(tensor: th.Tensor) -> th.Tensor:
    """Sum of the tensor over all workers."""
    return tensor


def mean_and_std(values: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
    """Mean and (unbiased) standard deviation over all workers; a deviation of 0 for a single value.

    :param values: ``(n,)``
    :return: two scalars
    """
    n = all_sum(values.new_tensor(float(values.numel())))
    mean = all_sum(values.sum()) / n
    variance = all_sum((values - mean).square().sum()) / (n - 1).clamp(min=1)
    return mean, variance.sqrt()


def shift_and_scale(advantages: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
    """What advantages are shifted by and divided by, to have mean 0 and deviation 1.

    Where there is one alone, 0 and 1: as in SB3's PPO it stays as it is. Where none differs from another there is
    nothing to learn, and the scale is infinite.

    :param advantages: ``(n,)``
    :return: two scalars
    """
    mean, std = mean_and_std(advantages)
    if int(all_sum(th.as_tensor(advantages.numel()))) == 1:
        return th.zeros_like(mean), th.ones_like(std)
    return mean, th.where(std > 0, std + 1e-8, math.inf)
