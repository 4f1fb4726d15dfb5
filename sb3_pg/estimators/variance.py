"""How noisy a gradient estimate is, from independent gradients: of single episodes, or of whole batches.

Everything here needs three numbers of a sample g_1 .. g_n: the squared norm of its sum |sum_i g_i|^2, the sum of its
squared norms sum_i |g_i|^2, and n; never the n gradients at once. They may be tensors of one shape each, for several
samples in one call.
"""

from __future__ import annotations

import torch as th

from sb3_pg.estimators.baselines import AllSum, alone

Number = th.Tensor | float


def covariance_trace(sq_norm_of_sum: th.Tensor, sum_of_sq_norms: th.Tensor, n: Number) -> th.Tensor:
    """tr Cov(g) = (sum_i |g_i|^2 - |sum_i g_i|^2 / n) / (n - 1): unbiased.

    :return: not negative; nan with fewer than two gradients
    """
    n = th.as_tensor(n, dtype=sum_of_sq_norms.dtype, device=sum_of_sq_norms.device)
    spread = sum_of_sq_norms - sq_norm_of_sum / n
    # Rounding can take the difference of two nearly equal sums below zero.
    return th.where(n >= 2, (spread / (n - 1)).clamp(min=0), float("nan"))


def mean_sq_norm(sq_norm_of_sum: th.Tensor, sum_of_sq_norms: th.Tensor, n: Number) -> th.Tensor:
    """|E g|^2 = (|sum_i g_i|^2 - sum_i |g_i|^2) / (n (n - 1)), the mean of <g_i, g_j> over the pairs: unbiased.

    The squared norm of the mean is |E g|^2 + tr Cov(g) / n in expectation; this one has no such floor, and is negative
    about half of the time where E g = 0.

    :return: nan with fewer than two gradients
    """
    n = th.as_tensor(n, dtype=sum_of_sq_norms.dtype, device=sum_of_sq_norms.device)
    return th.where(n >= 2, (sq_norm_of_sum - sum_of_sq_norms) / (n * (n - 1)), float("nan"))


def mean_pairwise_cosine(sq_norm_of_unit_sum: th.Tensor, n: Number) -> th.Tensor:
    """Mean over the pairs of <g_i, g_j> / (|g_i| |g_j|), from the sum of the n unit vectors g_i / |g_i|.

    Ilyas et al. 2018, "A closer look at deep policy gradients" (arXiv 1811.02553), section 2.1: about 0 where the
    estimates share nothing but noise.

    :param sq_norm_of_unit_sum: |sum_i g_i / |g_i| |^2
    :return: in [-1/(n-1), 1]; nan with fewer than two gradients
    """
    count = th.as_tensor(n, dtype=sq_norm_of_unit_sum.dtype, device=sq_norm_of_unit_sum.device)
    return mean_sq_norm(sq_norm_of_unit_sum, count.expand_as(sq_norm_of_unit_sum), count)


def noise_scale(trace: th.Tensor, sq_norm: th.Tensor) -> th.Tensor:
    """B_simple = tr Cov(g) / |E g|^2: the batch size at which noise and signal are of one size.

    McCandlish et al. 2018, "An empirical model of large-batch training" (arXiv 1812.06162), eq. 2.9. Far smaller
    batches make steps of mostly noise, far larger ones hardly better steps. In the unit of the gradients: of single
    episodes, a number of episodes; of batches, a number of batches.

    :param trace: tr Cov(g), see :func:`covariance_trace`
    :param sq_norm: |E g|^2, see :func:`mean_sq_norm`
    :return: inf where the estimate of |E g|^2 is not above 0: the sample is too small to tell
    """
    return th.where(sq_norm > 0, trace / sq_norm, float("inf"))


def gradient_variance(gradient_sum: th.Tensor, sq_norms: th.Tensor, all_sum: AllSum = alone) -> th.Tensor:
    """Variance of the mean of N independent per-episode gradients, summed over the components: tr Cov(g) / N.

    :param gradient_sum: ``(n_parameters,)`` sum_i g_i
    :param sq_norms: ``(n_episodes,)`` |g_i|^2
    :return: scalar; nan with fewer than two episodes
    """
    n = all_sum(sq_norms.new_tensor(float(sq_norms.numel())))
    return covariance_trace(all_sum(gradient_sum).square().sum(), all_sum(sq_norms.sum()), n) / n


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
