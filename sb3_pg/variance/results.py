"""What the laboratory found, as plain data: written to JSON and read again."""

from __future__ import annotations

import dataclasses
import json
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from sb3_pg.files import whole_file
from sb3_pg.variance.instruments.credits import Estimator

T = TypeVar("T")


@dataclass(frozen=True)
class Estimate:
    """A number with its interval.

    :param error: its standard error
    :param low, high: ends of the interval; nan where the sample is too small for one
    """

    value: float
    error: float
    low: float
    high: float


@dataclass(frozen=True)
class Summary:
    """Moments of independent estimates of a gradient, compared with a reference.

    :param n: how many estimates
    :param variance: trace of their covariance
    :param sq_norm: |E g|^2, without the floor that noise adds to the norm of a mean; may be negative
    :param snr: sq_norm / variance, of one estimate
    :param pairwise_cosine: mean over the pairs of estimates
    :param reference_cosine: mean cosine of one estimate with the reference
    :param direction: cosine of E g with the reference's expectation, corrected for the noise of both; may exceed 1
    :param bias: |E g - reference|, corrected for the noise of both, 0 where that leaves nothing; nan where the
        estimator is not of the objective's scale
    :param relative_bias: bias / |reference|
    """

    n: int
    variance: Estimate
    sq_norm: Estimate
    snr: Estimate
    pairwise_cosine: Estimate
    reference_cosine: Estimate
    direction: Estimate
    bias: Estimate
    relative_bias: Estimate


@dataclass(frozen=True)
class CurvePoint:
    """Gradients of larger batches: means over so many batches in a row.

    :param episodes, steps: of one gradient; steps in the mean
    """

    batches: int
    episodes: int
    steps: float
    summary: Summary


@dataclass(frozen=True)
class EstimatorResult:
    """Everything about one estimator.

    :param aim: the objective whose gradient it is compared with
    :param whole: its gradients, one a batch
    :param paired_bias: |E(g - u)| with u the unbiased reference estimator on the same episodes: less noise than
        against other episodes; nan where there is no such estimator, or the scale differs
    :param paired_variance: tr Cov(g) / tr Cov(u), with the same u and for the same reason; nan where that is
    :param noise_scale: tr Cov / |E g|^2 in episodes (batch size times that of a batch), the batch size that it suggests
    :param noise_scale_steps: the same in environment steps
    :param curve: against batch size
    :param layers: by the layer's name, ``log_std`` apart
    :param natural, optimizer: after the natural gradient, and after one step of the model's optimizer; None if that was
        not asked for
    """

    estimator: Estimator
    name: str
    aim: str
    whole: Summary
    paired_bias: Estimate
    paired_variance: Estimate
    noise_scale: Estimate
    noise_scale_steps: Estimate
    curve: tuple[CurvePoint, ...]
    layers: dict[str, Summary]
    natural: Summary | None = None
    optimizer: Summary | None = None


@dataclass(frozen=True)
class Reference:
    """The large batch that estimators are compared with.

    :param norm: |grad J|, corrected for noise; nan where noise is all there is
    :param half_cosine: cosine of the two halves of the batch
    :param half_distance: |half - half| / 2, about the error of the whole: a distance from it below this is noise
    """

    aim: str
    episodes: int
    steps: int
    norm: Estimate
    half_cosine: float
    half_distance: float


@dataclass(frozen=True)
class LevelWeights:
    """Importance weights of one level, by batch.

    :param ess: effective sample size as a fraction of the sample: of steps, of episodes for ``"trajectory"``
    :param variance: of the weights
    :param largest: the largest of all
    """

    level: str
    ess: Estimate
    variance: Estimate
    largest: float


@dataclass(frozen=True)
class DriftResult:
    """Estimators at a policy some way from the one that played.

    :param kl: KL(old || new) asked for
    :param measured_kl: that of the policy on states of the old one
    :param reference: gradient at the new policy, from episodes of its own
    """

    kl: float
    measured_kl: float
    reference: Reference
    weights: tuple[LevelWeights, ...]
    estimators: tuple[EstimatorResult, ...]


@dataclass(frozen=True)
class LandscapePoint:
    """Along the step, at ``size`` times the step whose KL(old || new) was asked for.

    :param gain: of the return that the reference aims at, over that at size 0, on the same seeds
    :param surrogate: what the old policy's episodes promise, (1/N) sum_i sum_t (rho - 1) A
    :param clipped: PPO's version of it
    """

    size: float
    kl: float
    mean_return: Estimate
    gain: Estimate
    surrogate: Estimate
    clipped: Estimate


@dataclass(frozen=True)
class Landscape:
    """Return and surrogate along a direction."""

    direction: str
    kl: float
    clip_range: float
    points: tuple[LandscapePoint, ...]


@dataclass(frozen=True)
class CriticResult:
    """How well a critic explains the rewards to go of episodes that it has not seen.

    :param passes: of the fit, 0 where there was none
    """

    name: str
    explained_variance: Estimate
    passes: int = 0


@dataclass(frozen=True)
class Measurement:
    """All that was measured of one policy.

    :param settings: what was asked
    :param facts: of the model and the environment
    :param steps: environment steps that the model had learned from
    """

    settings: dict[str, Any]
    facts: dict[str, Any]
    steps: int
    mean_return: Estimate
    mean_length: Estimate
    references: dict[str, Reference]
    critics: tuple[CriticResult, ...]
    estimators: tuple[EstimatorResult, ...]
    drifts: tuple[DriftResult, ...] = ()
    landscape: Landscape | None = None
    remarks: tuple[str, ...] = field(default=())

    def save(self, path: Path | str) -> None:
        """Write it as JSON, whole or not at all."""
        with whole_file(Path(path)) as unfinished:
            unfinished.write_text(json.dumps(plain(self), indent=1) + "\n")

    @classmethod
    def load(cls, path: Path | str) -> Measurement:
        """Read what :meth:`save` wrote.

        :raises ValueError: for a file that is no measurement
        """
        try:
            measurement: Measurement = _built(cls, json.loads(Path(path).read_text()))
            return measurement
        except (json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{path} is no measurement of gradients: {type(error).__name__}: {error}") from error


def plain(value: Any) -> Any:
    """Of dictionaries, lists, texts and numbers; numbers that JSON does not know are texts."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {one.name: plain(getattr(value, one.name)) for one in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(one) for one in value]
    if isinstance(value, float) and (value != value or value in (float("inf"), float("-inf"))):
        return str(value)
    return value


def _built(kind: Any, value: Any) -> Any:
    """The inverse of :func:`_plain` for a type that says what is in it."""
    if dataclasses.is_dataclass(kind):
        hints = get_type_hints(kind)
        return kind(**{key: _built(hints[key], one) for key, one in value.items()})  # type: ignore[operator]
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (typing.Union, types.UnionType):
        return None if value is None else _built(next(one for one in inner if one is not type(None)), value)
    if origin is tuple:
        return tuple(_built(inner[0], one) for one in value)
    if origin is dict:
        return {key: _built(inner[1], one) for key, one in value.items()}
    return float(value) if kind is float else value
