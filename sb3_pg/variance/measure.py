"""A measurement from its stages: estimates with their intervals."""

from __future__ import annotations

import contextlib
import platform
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import stable_baselines3
import torch as th
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.vec_env import VecEnv

from sb3_pg.estimators import LEVELS
from sb3_pg.variance.instruments.credits import Estimator
from sb3_pg.variance.instruments.drift import NoSuchStep, divergence_after
from sb3_pg.variance.instruments.gradients import layers_of
from sb3_pg.variance.instruments.models import task
from sb3_pg.variance.instruments.sampling import normalizer_of
from sb3_pg.variance.laboratory import STREAMS, Laboratory
from sb3_pg.variance.results import (
    CriticResult,
    DriftResult,
    Estimate,
    EstimatorResult,
    Landscape,
    LandscapePoint,
    LevelWeights,
    Measurement,
    Reference,
    Summary,
    plain,
)
from sb3_pg.variance.settings import Settings
from sb3_pg.variance.store import Progress, Stage
from sb3_pg.variance.summary import (
    UNKNOWN,
    Products,
    curve,
    log_scaled,
    mean_estimate,
    noise_scale_estimate,
    norm_of_expectation,
    summarise,
    variance_ratio,
)

#: Parts that the reference is cut into before an optimizer that is not linear sees it.
REFERENCE_PARTS = 4


def measure_gradients(
    model: OnPolicyAlgorithm,
    env: VecEnv | str | None = None,
    settings: Settings | None = None,
    folder: Path | str | None = None,
    progress: Progress | None = None,
) -> Measurement:
    """Bias and variance of policy-gradient estimators at the policy of a model, which stays as it is.

    :param env: an environment, the id of one, or None for the model's own, which is reset
    :param folder: where pieces are kept: a measurement that was interrupted goes on with those that are there, and one
        with more batches than before adds what is missing
    :param progress: told of the stage, how many of its chunks are done, and how many there are
    :raises ValueError: for settings or a model that cannot be measured
    """
    settings = settings or Settings()
    if folder is not None:
        Path(folder).mkdir(parents=True, exist_ok=True)
    place: Any = tempfile.TemporaryDirectory() if folder is None else contextlib.nullcontext(folder)
    with place as where:
        return measurement_of(Laboratory(model, env, settings, Path(where), progress))


def measure_checkpoints(
    models: Iterable[tuple[OnPolicyAlgorithm, VecEnv | str | None]],
    settings: Settings | None = None,
    folder: Path | str | None = None,
    progress: Progress | None = None,
) -> list[Measurement]:
    """The same of one model after the other, such as the checkpoints of a run."""
    return [measure_gradients(model, env, settings, folder, progress) for model, env in models]


def measurement_of(lab: Laboratory) -> Measurement:
    """All that a laboratory is set to measure; of its stages, those that are there are not made again."""
    reference, measured = lab.reference(), lab.measured()
    references = {aim: reference_result(reference, lab, one, aim) for aim, one in lab.references.items()}
    compared = {aim: compared_with(lab, one, reference) for aim, one in lab.references.items()}
    estimators = tuple(result_of(lab, one, measured, compared[lab.aim_of(one)]) for one in lab.estimators)
    drifts, landscape, not_found = _away(lab)
    settings = plain(replace(lab.settings, gamma=lab.gamma, estimators=None, drift_estimators=None))
    return Measurement(
        settings=settings,
        facts=_facts(lab),
        steps=int(lab.model.num_timesteps),
        mean_return=mean_estimate(measured.column("return")),
        mean_length=mean_estimate(measured.column("steps") / lab.settings.episodes),
        references=references,
        critics=_critics(lab, measured),
        estimators=estimators,
        drifts=drifts,
        landscape=landscape,
        remarks=(*_remarks(lab, references), *not_found),
    )


def _away(lab: Laboratory) -> tuple[tuple[DriftResult, ...], Landscape | None, list[str]]:
    """What is measured some way off, and why what is missing of it could not be: no step is as far as was asked."""
    drifts: list[DriftResult] = []
    landscape: Landscape | None = None
    not_found: list[str] = []
    for number, kl in enumerate(lab.settings.drifts):
        try:
            drifts.append(_drift(lab, number, kl))
        except NoSuchStep as error:
            not_found.append(f"no drift of KL {kl:g}: {error}")
    if lab.settings.landscape:
        try:
            landscape = _landscape(lab)
        except NoSuchStep as error:
            not_found.append(f"no landscape: {error}")
    return tuple(drifts), landscape, not_found


def _facts(lab: Laboratory) -> dict[str, Any]:
    layers = layers_of(lab.parameters)
    return {
        "algorithm": type(lab.model).__name__,
        "policy": type(lab.model.policy).__name__,
        "environment": task(lab.env),
        "n_envs": lab.env.num_envs,
        "normalized": normalizer_of(lab.env) is not None,
        "n_parameters": sum(one.numel() for one in lab.parameters.values()),
        "layers": {name: where.stop - where.start for name, where in layers.items()},
        "optimizer": type(lab.model.policy.optimizer).__name__,
        "optimizer_state": lab.optimizer_state,
        "versions": {
            "python": platform.python_version(),
            "stable_baselines3": stable_baselines3.__version__,
            "torch": th.__version__,
        },
    }


def _remarks(lab: Laboratory, references: Mapping[str, Reference]) -> list[str]:
    """What a reader has to know to read the numbers."""
    remarks = []
    for aim, one in references.items():
        if not one.half_cosine > 0.5:
            remarks.append(
                f"the two halves of the {aim} reference have a cosine of {one.half_cosine:.2f}: cosines with it and "
                "biases are mostly noise; raise reference_batches"
            )
    if lab.settings.episodes < 2:
        remarks.append("batches of one episode have no others: leave-one-out baselines are 0 in them")
    return remarks


def reference_result(stage: Stage, lab: Laboratory, estimator: Estimator, aim: str) -> Reference:
    """What is known of a reference, from the gradients of its batches."""
    gradients = stage.column(f"raw/{estimator.name}").double()
    one, other = gradients.chunk(2)
    halves = one.mean(0), other.mean(0)
    return Reference(
        aim=aim,
        episodes=len(gradients) * lab.settings.episodes,
        steps=int(stage.column("steps").sum()),
        norm=norm_of_expectation(gradients @ gradients.T),
        half_cosine=float(th.nn.functional.cosine_similarity(*halves, dim=0)),
        half_distance=float((halves[0] - halves[1]).norm() / 2),
    )


def _critics(lab: Laboratory, measured: Stage) -> tuple[CriticResult, ...]:
    fit = lab.fit
    return tuple(
        CriticResult(
            name,
            mean_estimate(measured.column(f"explained/{name}")),
            fit.passes if fit is not None and name == "fitted" else 0,
        )
        for name in lab.critics
    )


@dataclass(frozen=True)
class Compared:
    """What estimators that share an objective are compared with.

    :param unbiased: the estimator whose gradients the reference is made of
    :param blocks: ``(n_reference_batches, n_parameters)`` those
    :param after: by transform, what it makes of parts of the reference, ``(n_parts, n_parameters)``
    """

    unbiased: Estimator
    blocks: th.Tensor
    after: Mapping[str, th.Tensor]


def compared_with(lab: Laboratory, unbiased: Estimator, reference: Stage) -> Compared:
    """The reference of one objective, raw and after each transform."""
    blocks = reference.column(f"raw/{unbiased.name}").double()
    parts = th.stack([part.mean(0) for part in blocks.chunk(REFERENCE_PARTS)])
    mean_length = float(reference.column("steps").mean()) / lab.settings.episodes
    states, seed = lab.reference_states, lab.seed_of(STREAMS.index("reference"), 0)
    after = {one: lab.transformed(one, states, parts, mean_length, seed) for one in lab.settings.transforms}
    return Compared(unbiased, blocks, after)


def result_of(lab: Laboratory, estimator: Estimator, measured: Stage, compared: Compared) -> EstimatorResult:
    """One estimator at the policy that played."""
    result = estimator_result(lab, estimator, measured, compared.blocks)
    if estimator.keeps_scale:
        gradients = measured.column(f"raw/{estimator.name}").double()
        unbiased = measured.column(f"raw/{compared.unbiased.name}").double()
        apart = gradients - unbiased
        result = replace(
            result,
            paired_bias=norm_of_expectation(apart @ apart.T),
            paired_variance=variance_ratio(gradients, unbiased),
        )

    def after(transform: str) -> Summary | None:
        if transform not in compared.after:
            return None
        gradients = measured.column(f"{transform}/{estimator.name}").double()
        return summarise(Products.of(gradients, compared.after[transform]), keeps_scale=False)

    return replace(result, natural=after("natural"), optimizer=after("optimizer"))


def estimator_result(lab: Laboratory, estimator: Estimator, measured: Stage, blocks: th.Tensor) -> EstimatorResult:
    """One estimator's raw gradients against the blocks of a reference, ``(m, n_parameters)``."""
    episodes = lab.settings.episodes
    steps = float(measured.column("steps").mean())
    gradients = measured.column(f"raw/{estimator.name}").double()
    products = Products.of(gradients, blocks)
    layers = {
        name: summarise(Products.of(gradients[:, where], blocks[:, where]), estimator.keeps_scale)
        for name, where in layers_of(lab.parameters).items()
    }
    return EstimatorResult(
        estimator=estimator,
        name=estimator.name,
        aim=lab.aim_of(estimator),
        whole=summarise(products, estimator.keeps_scale),
        paired_bias=UNKNOWN,
        paired_variance=UNKNOWN,
        noise_scale=noise_scale_estimate(products.own, episodes),
        noise_scale_steps=noise_scale_estimate(products.own, steps),
        curve=curve(products, estimator.keeps_scale, episodes, steps),
        layers=layers,
    )


def _drift(lab: Laboratory, number: int, kl: float) -> DriftResult:
    step = lab.step(kl)
    reference, measured = lab.drift(number, step, kl)
    unbiased = lab.references["undiscounted"]
    results = []
    for estimator in lab.drift_estimators:
        blocks = reference.column(f"raw/{lab.references[lab.aim_of(estimator)].name}").double()
        results.append(estimator_result(lab, estimator, measured, blocks))
    return DriftResult(
        kl=kl,
        measured_kl=step.kl,
        reference=reference_result(reference, lab, unbiased, "undiscounted"),
        weights=_level_weights(measured),
        estimators=tuple(results),
    )


def _level_weights(measured: Stage) -> tuple[LevelWeights, ...]:
    """From the statistics of each batch, ``(n_batches, n_levels)`` each, to those of the levels."""
    ess, variance, largest = (measured.column(name) for name in ("ess", "weight_variance", "weight_max"))
    return tuple(
        LevelWeights(
            level, mean_estimate(ess[:, k]), log_scaled(mean_estimate(variance[:, k])), float(largest[:, k].max())
        )
        for k, level in enumerate(LEVELS)
    )


def _landscape(lab: Laboratory) -> Landscape:
    settings = lab.settings
    states = lab.reference_states
    step = lab.step(settings.landscape_kl)
    kls = divergence_after(lab.policy, lab.parameters, states, [size * step.vector for size in settings.landscape])
    stages = {size: lab.landscape(step, size) for size in settings.landscape}
    here = stages[0.0].column("return")
    points = []
    for size, kl in zip(settings.landscape, kls, strict=True):
        stage = stages[size]
        gain: Estimate = mean_estimate(stage.column("return") - here)
        promised, clipped = (mean_estimate(stage.column(name)) for name in ("surrogate", "clipped"))
        points.append(LandscapePoint(size, kl, mean_estimate(stage.column("return")), gain, promised, clipped))
    return Landscape(settings.direction, settings.landscape_kl, settings.clip_range, tuple(points))
