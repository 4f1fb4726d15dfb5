"""From independent gradients to their moments, with intervals.

Everything is computed from inner products, so that no more than two estimators' gradients need be in memory. Standard
errors are the delete-one jackknife's over the batches and, apart, over the blocks of the reference (Efron & Tibshirani
1993, "An introduction to the bootstrap", chapter 11); intervals are Student's, with the degrees of freedom of the
smaller of the two samples.

Squared norms of expectations need an interval of their own, since where the norm is small they are far from normal, and
a sample that gives one too small a value gives it too small an error too: :func:`score_interval`. Variances have theirs
on the scale of their logarithm: they are positive, and their samples are skewed.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch as th

from sb3_pg.estimators import covariance_trace, mean_pairwise_cosine, mean_sq_norm, noise_scale
from sb3_pg.variance.results import CurvePoint, Estimate, Summary

#: Of all intervals.
CONFIDENCE = 0.95
#: Fewer gradients than this give a point of the curve no interval that is worth the name.
LEAST_GROUPS = 4
#: Of what is finite.
MAX_EXPONENT = 700.0

UNKNOWN = Estimate(math.nan, math.nan, math.nan, math.nan)


@dataclass(frozen=True)
class Resampled:
    """The whole sample, then each that lacks one of n batches, then each that lacks one of m blocks of the reference.

    Sums over each of these 1 + n + m samples, from the sum over the whole.
    """

    n: int
    m: int

    def counts(self) -> tuple[th.Tensor, th.Tensor]:
        """How many batches, and how many blocks, are in each sample."""
        batches = self.sums(th.ones(self.n, dtype=th.float64))
        blocks = self.sums_of_blocks(th.ones(self.m, dtype=th.float64))
        return batches, blocks

    def sums(self, values: th.Tensor) -> th.Tensor:
        """sum_i v_i over the batches, from ``(n,)``."""
        return self._joined(values.sum(), values, values.new_zeros(self.m))

    def sums_of_blocks(self, values: th.Tensor) -> th.Tensor:
        """sum_j v_j over the blocks, from ``(m,)``."""
        return self._joined(values.sum(), values.new_zeros(self.n), values)

    def squares(self, products: th.Tensor) -> th.Tensor:
        """sum_ik P_ik over the pairs of batches, those with themselves among them, from ``(n, n)``."""
        return self._joined(products.sum(), _share(products), products.new_zeros(self.m))

    def squares_of_blocks(self, products: th.Tensor) -> th.Tensor:
        """The same over the pairs of blocks, from ``(m, m)``."""
        return self._joined(products.sum(), products.new_zeros(self.n), _share(products))

    def pairs(self, products: th.Tensor) -> th.Tensor:
        """sum_ij P_ij over batches and blocks, from ``(n, m)``."""
        return self._joined(products.sum(), products.sum(1), products.sum(0))

    @staticmethod
    def _joined(whole: th.Tensor, of_batch: th.Tensor, of_block: th.Tensor) -> th.Tensor:
        """Of the whole, and of what is left without the share of each batch and of each block."""
        return th.cat([whole[None], whole - of_batch, whole - of_block])

    def estimate(self, values: th.Tensor) -> Estimate:
        """From the values of a statistic on each sample, ``(1 + n + m,)``, to its interval."""
        value = float(values[0])
        variance = _jackknife_variance(values[1 : 1 + self.n])
        variance += _jackknife_variance(values[1 + self.n :]) if self.m else 0.0
        error = math.sqrt(variance) if variance >= 0 else math.nan
        half = student_quantile(min(self.n, self.m or self.n) - 1) * error
        return Estimate(value, error, value - half, value + half)

    def positive(self, values: th.Tensor) -> Estimate:
        """The same of a positive statistic: the interval is that of its logarithm."""
        if not bool((values > 0).all()):
            return self.estimate(values)
        log = self.estimate(values.log())
        value = float(values[0])
        return Estimate(value, value * log.error, *(math.exp(min(end, MAX_EXPONENT)) for end in (log.low, log.high)))


def _centred(products: th.Tensor) -> th.Tensor:
    """Inner products of vectors less their means, from those of the vectors, ``(n, m)``."""
    return products - products.mean(0, keepdim=True) - products.mean(1, keepdim=True) + products.mean()


def _share(products: th.Tensor) -> th.Tensor:
    """``(n,)`` what the sum over all pairs owes to each: its pairs with all, in both orders, itself once."""
    return products.sum(0) + products.sum(1) - products.diagonal()


def _jackknife_variance(values: th.Tensor) -> float:
    """(n - 1) / n sum_i (value_(i) - mean)^2"""
    n = len(values)
    return float((n - 1) / n * (values - values.mean()).square().sum()) if n > 1 else math.nan


def student_quantile(degrees: int) -> float:
    """How many standard errors an interval reaches on either side."""
    from scipy.special import stdtrit  # takes long to import

    return float(stdtrit(degrees, (1 + CONFIDENCE) / 2)) if degrees >= 1 else math.nan


def score_interval(square: float, spread: float, quantile: float) -> tuple[float, float]:
    """All b^2 that an unbiased estimate of it is not too far from: Wilson's way, with the error that there is at b.

    The estimate |D|^2 - tr V of b^2 = |E D|^2, with V = Cov(D), has the variance 4 E D^T V E D + 2 tr V^2 (for normal
    D), which is at most 4 b^2 s + 2 s^2 with s^2 = tr V^2. The ends solve |estimate - b^2| = quantile * deviation.

    :param square: the estimate
    :param spread: s
    :param quantile: of Student's, how many deviations are not too far
    """
    centre = square + 2 * quantile**2 * spread
    half = math.sqrt(max(centre**2 - square**2 + 2 * (quantile * spread) ** 2, 0.0))
    return max(centre - half, 0.0), max(centre + half, 0.0)


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
    def alone(cls, own: th.Tensor) -> Products:
        """Without a reference."""
        return cls(own, own.new_zeros(len(own), 0), own.new_zeros(0, 0))

    @classmethod
    def of(cls, gradients: th.Tensor, reference: th.Tensor) -> Products:
        """Of ``(n, n_parameters)`` and ``(m, n_parameters)``, in double precision."""
        g, r = gradients.double(), reference.double()
        return cls(g @ g.T, g @ r.T, r @ r.T)

    def spread(self) -> float:
        """The root of tr V^2, with V the covariance of the mean gradient less the mean of the reference."""
        n, m = len(self.own), len(self.reference)
        own = _centred(self.own).square().sum() / (n * (n - 1)) ** 2
        reference = _centred(self.reference).square().sum() / (m * (m - 1)) ** 2 if m > 1 else 0.0
        cross = _centred(self.cross).square().sum() / (n * (n - 1) * m * (m - 1)) if m > 1 else 0.0
        return math.sqrt(float(own + 2 * cross + reference))

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
    resampled = Resampled(len(own), len(reference))
    n, m = resampled.counts()
    trace, sq_norm = moments(own, resampled)
    sq_norm_of_blocks = resampled.squares_of_blocks(reference)
    of_reference = mean_sq_norm(sq_norm_of_blocks, resampled.sums_of_blocks(reference.diagonal()), m)
    together = resampled.pairs(cross) / (n * m)  # <mean gradient, mean of the reference>
    norms = own.diagonal().clamp(min=0).sqrt()
    lengths = th.where(norms > 0, norms, 1.0)
    unit = own / lengths[:, None] / lengths[None, :]
    cosines = resampled.pairs(cross / lengths[:, None]) / n / sq_norm_of_blocks.clamp(min=0).sqrt()
    bias = sq_norm - 2 * together + of_reference
    bias = bias if keeps_scale else th.full_like(bias, math.nan)
    sq_norm_estimate = squared(resampled.estimate(sq_norm), Products.alone(own).spread())
    bias_estimate = rooted(squared(resampled.estimate(bias), products.spread()))
    return Summary(
        n=len(own),
        variance=resampled.positive(trace),
        sq_norm=sq_norm_estimate,
        snr=wider(resampled.estimate(sq_norm / trace), sq_norm_estimate, float(trace[0])),
        pairwise_cosine=as_cosine(resampled.estimate(mean_pairwise_cosine(resampled.squares(unit), n))),
        reference_cosine=as_cosine(resampled.estimate(cosines)),
        direction=resampled.estimate(together / (sq_norm * of_reference).sqrt()),
        bias=bias_estimate,
        relative_bias=wider(
            rooted(resampled.estimate(bias / of_reference.clamp(min=0))),
            bias_estimate,
            root(float(of_reference[0])),
        ),
    )


def as_cosine(estimate: Estimate) -> Estimate:
    """With an interval that does not reach beyond what a cosine can be."""
    return replace(estimate, low=max(estimate.low, -1.0), high=min(estimate.high, 1.0))


def log_scaled(estimate: Estimate) -> Estimate:
    """A positive estimate, with an interval that is symmetric about its logarithm: value * exp(+- half / value)."""
    if not estimate.value > 0:
        return estimate
    factor = math.exp(min((estimate.high - estimate.value) / estimate.value, MAX_EXPONENT))
    return replace(estimate, low=estimate.value / factor, high=estimate.value * factor)


def variance_ratio(gradients: th.Tensor, others: th.Tensor) -> Estimate:
    """tr Cov of one estimator over that of another on the same batches, which makes its interval a short one.

    :param gradients, others: ``(n, n_parameters)`` of each
    """
    resampled = Resampled(len(gradients), 0)
    trace, other = (moments(one @ one.T, resampled)[0] for one in (gradients.double(), others.double()))
    return resampled.positive(trace / other)


def squared(estimate: Estimate, spread: float) -> Estimate:
    """An estimate of a squared norm, with the interval that it needs."""
    quantile = (estimate.high - estimate.value) / estimate.error if estimate.error > 0 else math.nan
    if math.isnan(estimate.value) or math.isnan(quantile):
        return estimate
    low, high = score_interval(estimate.value, spread, quantile)
    return replace(estimate, low=low, high=high)


def rooted(square: Estimate) -> Estimate:
    """The root of an estimate that noise may make negative: 0 there; its error by the delta method."""
    value = root(square.value)
    error = square.error / (2 * value) if value > 0 else math.nan
    return Estimate(value, error, root(square.low), root(square.high))


def wider(ratio: Estimate, numerator: Estimate, denominator: float) -> Estimate:
    """A ratio, whose interval is at least that of the numerator alone; as it is where the denominator is none."""
    if not denominator > 0:
        return ratio
    ends = (numerator.low / denominator, numerator.high / denominator)
    return replace(ratio, low=min(ratio.low, ends[0]), high=max(ratio.high, ends[1]))


def moments(own: th.Tensor, resampled: Resampled) -> tuple[th.Tensor, th.Tensor]:
    """tr Cov(g) and |E g|^2 on each sample.

    :param own: ``(n, n)`` inner products
    :return: ``(1 + n + m,)`` each
    """
    sq_norm_of_sum, sum_of_sq_norms = resampled.squares(own), resampled.sums(own.diagonal())
    n = resampled.counts()[0]
    return covariance_trace(sq_norm_of_sum, sum_of_sq_norms, n), mean_sq_norm(sq_norm_of_sum, sum_of_sq_norms, n)


def noise_scale_estimate(own: th.Tensor, unit: float) -> Estimate:
    """The noise scale with an interval, of gradients of ``unit`` episodes (or steps) each."""
    resampled = Resampled(len(own), 0)
    trace, sq_norm = moments(own, resampled)
    signal = squared(resampled.estimate(sq_norm), Products.alone(own).spread())
    # The reciprocal has an interval also where the signal may be none: the batch size may then be any
    inverse = wider(resampled.estimate(sq_norm / trace), signal, float(trace[0]))

    def size(snr: float) -> float:
        return unit * float(noise_scale(th.tensor(1.0), th.tensor(snr)))

    value = size(inverse.value)
    return Estimate(value, inverse.error * value**2 / unit, size(inverse.high), size(inverse.low))


def norm_of_expectation(own: th.Tensor) -> Estimate:
    """|E g|, from the inner products of gradients."""
    resampled = Resampled(len(own), 0)
    return rooted(squared(resampled.estimate(moments(own, resampled)[1]), Products.alone(own).spread()))


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
