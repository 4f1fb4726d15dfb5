"""The one seam through which every statistic of a batch goes: means, deviations, counts.

A run of one worker sums over itself. Data-parallel training replaces :func:`all_sum`, and nothing else.
"""

from __future__ import annotations

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
