"""From independent gradients to their moments, with intervals.

Everything is computed from inner products, so that no more than two estimators' gradients need be in memory. Standard
errors are the delete-one jackknife's over the batches and, apart, over the blocks of the reference (Efron & Tibshirani
1993, "An introduction to the bootstrap", chapter 11); intervals are Student's, with the degrees of freedom of the
smaller of the two samples.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch as th

from sb3_pg.estimators import covariance_trace, mean_pairwise_cosine, mean_sq_norm, noise_scale
from sb3_pg.variance.results import CurvePoint, Estimate, Summary

#: Of all intervals.
CONFIDENCE = 0.95
#: Fewer gradients than this give a point of the curve no interval that is worth the name.
LEAST_GROUPS = 4

UNKNOWN = Estimate(math.nan, math.nan, math.nan, math.nan)


@dataclass(frozen=True)
class Resampled:
    """The whole sample, then each that lacks one batch, then each that lacks one block of the reference.

    :param batches: ``(n_resamples, n)`` 1 where a batch is part of the resample
    :param blocks: ``(n_resamples, m)`` the same of the reference's blocks
    """

    batches: th.Tensor
    blocks: th.Tensor

    @classmethod
    def of(cls, n: int, m: int) -> Resampled:
        """Of so many batches and blocks."""
        batches = th.ones(1 + n + m, n, dtype=th.float64)
        blocks = th.ones(1 + n + m, m, dtype=th.float64)
        batches[1 : 1 + n].fill_diagonal_(0)
        blocks[1 + n :].fill_diagonal_(0)
        return cls(batches, blocks)

    def estimate(self, values: th.Tensor) -> Estimate:
        """From the values of a statistic on each resample, ``(n_resamples,)``, to its interval."""
        n, m = self.batches.shape[1], self.blocks.shape[1]
        value = float(values[0])
        variance = _jackknife_variance(values[1 : 1 + n]) + (_jackknife_variance(values[1 + n :]) if m else 0.0)
        error = math.sqrt(variance) if variance >= 0 else math.nan
        half = student_quantile(min(n, m or n) - 1) * error
        return Estimate(value, error, value - half, value + half)

    def root_estimate(self, squares: th.Tensor) -> Estimate:
        """The same of the root of a statistic that noise may make negative: 0 there; its error by the delta method."""
        square = self.estimate(squares)
        value = root(square.value)
        error = square.error / (2 * value) if value > 0 else math.nan
        return Estimate(value, error, root(square.low), root(square.high))


def _jackknife_variance(values: th.Tensor) -> float:
    """(n - 1) / n sum_i (value_(i) - mean)^2"""
    n = len(values)
    return float((n - 1) / n * (values - values.mean()).square().sum()) if n > 1 else math.nan


def student_quantile(degrees: int) -> float:
    """How many standard errors an interval reaches on either side."""
    from scipy.special import stdtrit  # takes long to import

    return float(stdtrit(degrees, (1 + CONFIDENCE) / 2)) if degrees >= 1 else math.nan


def mean_estimate(values: Sequence[float] | th.Tensor) -> Estimate:
    """The mean of independent numbers."""
    sample = th.as_tensor(values, dtype=th.float64)
    n = len(sample)
    mean = sample.mean().item() if n else math.nan
    error = sample.std().item() / math.sqrt(n) if n > 1 else math.nan
    half = student_quantile(n - 1) * error
    return Estimate(mean, error, mean - half, mean + half)


@dataclass(frozen=True)
class Products:
    """Inner products of gradients g_1 .. g_n with each other and with the blocks r_1 .. r_m of a reference.

    :param own: ``(n, n)``
    :param cross: ``(n, m)``
    :param reference: ``(m, m)``
    """

    own: th.Tensor
    cross: th.Tensor
    reference: th.Tensor

    @classmethod
    def of(cls, gradients: th.Tensor, reference: th.Tensor) -> Products:
        """Of ``(n, n_parameters)`` and ``(m, n_parameters)``, in double precision."""
        g, r = gradients.double(), reference.double()
        return cls(g @ g.T, g @ r.T, r @ r.T)

    def averaged(self, k: int) -> Products:
        """Of the means of k gradients in a row; the rest that fills no group is left out."""
        groups = len(self.own) // k
        mean = th.zeros(groups, len(self.own), dtype=th.float64)
        for group in range(groups):
            mean[group, group * k : (group + 1) * k] = 1 / k
        return Products(mean @ self.own @ mean.T, mean @ self.cross, self.reference)


def summarise(products: Products, keeps_scale: bool = True) -> Summary:
    """The moments of the gradients.

    :param keeps_scale: whether the distance from the reference means anything
    """
    own, cross, reference = products.own, products.cross, products.reference
    resampled = Resampled.of(len(own), len(reference))
    rows, blocks = resampled.batches, resampled.blocks
    n, m = rows.sum(1), blocks.sum(1)
    trace, sq_norm = moments(own, rows)
    of_reference = mean_sq_norm(_quadratic(reference, blocks), blocks @ reference.diagonal(), m)
    together = ((rows @ cross) * blocks).sum(1) / (n * m)  # <mean gradient, mean of the reference>
    norms = own.diagonal().clamp(min=0).sqrt()
    lengths = th.where(norms > 0, norms, 1.0)
    unit = own / lengths[:, None] / lengths[None, :]
    reference_norm = (_quadratic(reference, blocks).clamp(min=0)).sqrt() / m
    cosines = ((blocks @ cross.T) / m[:, None] / lengths * rows).sum(1) / n / reference_norm
    bias = sq_norm - 2 * together + of_reference
    bias = bias if keeps_scale else th.full_like(bias, math.nan)
    return Summary(
        n=len(own),
        variance=resampled.estimate(trace),
        sq_norm=resampled.estimate(sq_norm),
        snr=resampled.estimate(sq_norm / trace),
        pairwise_cosine=resampled.estimate(mean_pairwise_cosine(_quadratic(unit, rows), n)),
        reference_cosine=resampled.estimate(cosines),
        direction=resampled.estimate(together / (sq_norm * of_reference).sqrt()),
        bias=resampled.root_estimate(bias),
        relative_bias=resampled.root_estimate(bias / of_reference.clamp(min=0)),
    )


def moments(own: th.Tensor, rows: th.Tensor) -> tuple[th.Tensor, th.Tensor]:
    """tr Cov(g) and |E g|^2 on each resample.

    :param own: ``(n, n)`` inner products
    :param rows: ``(n_resamples, n)`` which are part of it
    :return: ``(n_resamples,)`` each
    """
    sq_norm_of_sum, sum_of_sq_norms, n = _quadratic(own, rows), rows @ own.diagonal(), rows.sum(1)
    return covariance_trace(sq_norm_of_sum, sum_of_sq_norms, n), mean_sq_norm(sq_norm_of_sum, sum_of_sq_norms, n)


def noise_scale_estimate(own: th.Tensor, unit: float) -> Estimate:
    """The noise scale with an interval, of gradients of ``unit`` episodes (or steps) each."""
    resampled = Resampled.of(len(own), 0)
    trace, sq_norm = moments(own, resampled.batches)
    # The reciprocal has an interval also where the signal may be none: the batch size may then be any
    inverse = resampled.estimate(sq_norm / trace / unit)

    def size(signal: float) -> float:
        return float(noise_scale(th.tensor(1.0), th.tensor(signal)))

    value = size(inverse.value)
    return Estimate(value, inverse.error * value**2, size(inverse.high), size(inverse.low))


def norm_of_expectation(own: th.Tensor) -> Estimate:
    """|E g|, from the inner products of gradients."""
    resampled = Resampled.of(len(own), 0)
    return resampled.root_estimate(moments(own, resampled.batches)[1])


def curve(products: Products, keeps_scale: bool, episodes: int, steps: float) -> tuple[CurvePoint, ...]:
    """Against batch size: means over 1, 2, 4 ... batches in a row, as long as there are enough of them.

    :param episodes, steps: of one batch
    """
    points, k = [], 1
    while len(products.own) // k >= LEAST_GROUPS:
        points.append(CurvePoint(k, k * episodes, k * steps, summarise(products.averaged(k), keeps_scale)))
        k *= 2
    return tuple(points)


def root(square: float) -> float:
    """The root, 0 of what noise made negative."""
    return math.sqrt(max(square, 0.0)) if not math.isnan(square) else math.nan


def _quadratic(products: th.Tensor, rows: th.Tensor) -> th.Tensor:
    """|sum of the vectors that are part of it|^2 on each resample."""
    return ((rows @ products) * rows).sum(1)
