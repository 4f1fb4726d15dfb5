"""What is measured, and how much of it."""

from __future__ import annotations

from dataclasses import dataclass

from sb3_pg.data.checks import check_choice, check_int, check_not_negative, check_positive, check_unit_interval
from sb3_pg.variance.instruments.credits import Estimator

TRANSFORMS = ("natural", "optimizer")
DIRECTIONS = ("gradient", "natural", "random")


@dataclass(frozen=True)
class Settings:
    """What is measured, and how much of it.

    :param batches: independent gradients of each estimator
    :param episodes: of one batch: those of a baseline of the batch, and the unit of the curves
    :param reference_batches: as many again that make the reference
    :param chunk_batches: batches played at a time, and written together
    :param gamma: None for the model's
    :param estimators: None for :func:`~sb3_pg.variance.instruments.credits.default_estimators`
    :param transforms: of ``"natural"`` and ``"optimizer"``
    :param natural_rows: states of a batch that its Fisher matrix is made of, None for all
    :param damping, iterations: of the natural gradient
    :param fresh_optimizer: forget the state of the model's optimizer
    :param critic_batches: what the well-fitted critic is fitted to; a third as many again decide when to stop
    :param drifts: KL(old || new) of the policies that the importance weights are measured at; each has ``batches`` of
        its own for its reference
    :param drift_estimators: None for :func:`~sb3_pg.variance.instruments.credits.default_drift_estimators`
    :param direction: of drift and landscape: ``"gradient"``, ``"natural"`` or ``"random"``
    :param landscape: sizes of the steps, in units of the one that has a KL of ``landscape_kl``
    :param landscape_batches: played at each of them
    :param clip_range: of the clipped surrogate
    :param max_steps: of an episode
    """

    batches: int = 64
    episodes: int = 16
    reference_batches: int = 128
    chunk_batches: int = 4
    seed: int = 0
    gamma: float | None = None
    estimators: tuple[Estimator, ...] | None = None
    transforms: tuple[str, ...] = TRANSFORMS
    natural_rows: int | None = 500
    damping: float = 0.1
    iterations: int = 15
    fresh_optimizer: bool = False
    critic_batches: int = 16
    drifts: tuple[float, ...] = (0.001, 0.01, 0.1)
    drift_estimators: tuple[Estimator, ...] | None = None
    direction: str = "gradient"
    landscape: tuple[float, ...] = (-1.0, -0.5, 0.0, 0.5, 1.0, 1.5, 2.0, 3.0)
    landscape_kl: float = 0.02
    landscape_batches: int = 16
    clip_range: float = 0.2
    max_steps: int = 100_000

    def __post_init__(self) -> None:
        for name, least in {
            "batches": 4,
            "reference_batches": 4,
            "episodes": 1,
            "chunk_batches": 1,
            "critic_batches": 1,
            "landscape_batches": 1,
            "iterations": 1,
            "max_steps": 1,
            "seed": 0,
        }.items():
            check_int(name, getattr(self, name), least)
        check_int("natural_rows", self.natural_rows, 1, or_none=True)
        if self.gamma is not None:
            check_unit_interval("gamma", self.gamma)
        for transform in self.transforms:
            check_choice("each of transforms", transform, TRANSFORMS)
        check_choice("direction", self.direction, DIRECTIONS)
        check_not_negative("damping", self.damping)
        check_positive("clip_range", self.clip_range)
        for kl in (*self.drifts, self.landscape_kl):
            check_positive("a KL", kl)
        if self.landscape and 0.0 not in self.landscape:
            raise ValueError(f"landscape needs a step of size 0 to compare with, got {self.landscape}: add 0.0")
        if self.estimators is not None and not self.estimators:
            raise ValueError("estimators is empty: name at least one, or write None for the usual ones")
