"""How noisy a gradient estimate is, from the gradients of the single episodes."""

from __future__ import annotations

import torch as th

from sb3_pg.estimators.baselines import AllSum, alone


def gradient_variance(gradient_sum: th.Tensor, sq_norms: th.Tensor, all_sum: AllSum = alone) -> th.Tensor:
    """Variance of the mean of N independent per-episode gradients, summed over the components.

    tr Cov(g) / N with the unbiased covariance, (sum_i |g_i|^2 - N |g_mean|^2) / (N (N-1)): it needs the sum of the
    gradients and their squared norms only, never the N gradients at once.

    :param gradient_sum: ``(n_parameters,)`` sum_i g_i
    :param sq_norms: ``(n_episodes,)`` |g_i|^2
    :return: scalar; nan with fewer than two episodes
    """
    n = all_sum(sq_norms.new_tensor(float(sq_norms.numel())))
    spread = all_sum(sq_norms.sum()) - all_sum(gradient_sum).square().sum() / n
    # Rounding can take the difference of two nearly equal sums below zero.
    return th.where(n >= 2, (spread / (n * (n - 1))).clamp(min=0), float("nan"))


def gradient_snr(gradient_sum: th.Tensor, sq_norms: th.Tensor, all_sum: AllSum = alone) -> th.Tensor:
    """Signal-to-noise ratio |g_mean|^2 / (tr Cov(g) / N): about 1 where the estimate is nothing but noise.

    (Roberts & Tedrake 2009, "Signal-to-noise ratio analysis of policy gradient algorithms", define it with the
    projection on the true gradient, which is not known while learning.)

    :param gradient_sum: ``(n_parameters,)`` sum_i g_i
    :param sq_norms: ``(n_episodes,)`` |g_i|^2
    :return: scalar; inf where all gradients are equal, nan where all are 0 or fewer than two
    """
    mean = all_sum(gradient_sum) / all_sum(sq_norms.new_tensor(float(sq_norms.numel())))
    return mean.square().sum() / gradient_variance(gradient_sum, sq_norms, all_sum)
