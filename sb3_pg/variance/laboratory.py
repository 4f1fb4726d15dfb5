"""The laboratory: freeze a policy, play, and measure what estimators make of the same episodes."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.vec_env import VecEnv

from sb3_pg.data.batch import EpisodeBatch, concatenate
from sb3_pg.policies.actor import WithoutCritic
from sb3_pg.variance.instruments.credits import (
    Aim,
    Estimator,
    default_drift_estimators,
    default_estimators,
    distinct,
    multipliers,
    references,
)
from sb3_pg.variance.instruments.critics import (
    Critic,
    Fit,
    critic_of,
    explained_variance,
    fit_to_returns,
    with_critic,
    zero_critic,
)
from sb3_pg.variance.instruments.drift import (
    Step,
    log_probs_under,
    random_direction,
    step_of_kl,
    surrogate_gains,
    weight_statistics,
)
from sb3_pg.variance.instruments.gradients import (
    acting_parameters,
    has_state,
    natural_gradients,
    optimizer_steps,
    shifted,
    weighted_scores,
    working_copy,
)
from sb3_pg.variance.instruments.models import environment_for, identity
from sb3_pg.variance.instruments.sampling import (
    Player,
    episodes_per_env,
    facts_of,
    n_bytes,
    normalizer_of,
    own_random_numbers,
)
from sb3_pg.variance.settings import Settings
from sb3_pg.variance.store import Arrays, Progress, Stage, Store, fingerprint_of_tensors

#: Independent streams of random numbers; those of the drifts follow.
STREAMS = ("measure", "reference", "critic", "landscape", "drift")
#: Of observations that are kept rather than played again.
KEPT_BYTES = 2**28


def estimator_names(estimators: Sequence[Estimator]) -> list[str]:
    """As dictionaries, for what was asked."""
    return [repr(dataclasses.asdict(one)) for one in estimators]


class Laboratory:
    """One frozen policy on one environment, and the stages of its measurement.

    :param model: SB3's on-policy algorithms, sb3-contrib's that keep no state between steps, and this package's
    :param env: an environment, the id of one, or None for the model's own, which is reset
    :param folder: where the pieces are kept, None for a temporary one
    """

    def __init__(
        self,
        model: OnPolicyAlgorithm,
        env: VecEnv | str | None,
        settings: Settings,
        folder: Path,
        progress: Progress | None = None,
    ):
        self.model, self.settings = model, settings
        self.env = environment_for(model, env, settings.episodes)
        episodes_per_env(settings.episodes, self.env.num_envs)
        self.policy: ActorCriticPolicy = working_copy(model.policy)
        self.gamma = float(model.gamma) if settings.gamma is None else settings.gamma
        self.has_critic = not isinstance(model.policy, WithoutCritic)
        self.estimators = distinct(settings.estimators or default_estimators(model, self.has_critic))
        self.drift_estimators = distinct(settings.drift_estimators or default_drift_estimators())
        self._check_estimators()
        #: Unbiased, of each objective; without discounting there is one objective.
        self.references: dict[str, Estimator] = references(self.gamma)
        self.player = self._player(self.policy)
        self.store = Store(folder, self._base(), progress)
        self._played: dict[int, list[EpisodeBatch]] = {}
        self._kept_bytes = 0

    def aim_of(self, estimator: Estimator) -> Aim:
        """The objective that it is compared with."""
        return "undiscounted" if self.gamma == 1.0 else estimator.aim

    def _check_estimators(self) -> None:
        if any(one.uses_critic for one in self.drift_estimators):
            raise ValueError("drift_estimators have no critic: write another baseline than 'value'")
        for one in self.estimators:
            if one.uses_critic and one.critic == "model" and not self.has_critic:
                raise ValueError(
                    f"the estimator {one.name!r} wants the model's critic, and {type(self.model.policy).__name__} has "
                    "none: write critic='fitted'"
                )

    def _player(self, policy: ActorCriticPolicy) -> Player:
        sde = int(getattr(self.model, "sde_sample_freq", -1))
        return Player(policy, self.env, self.settings.max_steps, sde)

    def _base(self) -> dict[str, Any]:
        """What every number depends on."""
        normalizer = normalizer_of(self.env)
        statistics: dict[str, Any] = {}
        if normalizer is not None:
            of: Any = getattr(normalizer, "obs_rms", {})  # there are none with norm_obs=False
            pairs = of.items() if isinstance(of, dict) else [("", of)]
            statistics = {f"{key} {part}": getattr(one, part) for key, one in pairs for part in ("mean", "var")}
        return {
            "policy": fingerprint_of_tensors(self.model.policy.state_dict()),
            "normalizer": fingerprint_of_tensors(statistics),
            "environment": identity(self.env),
            "seed": self.settings.seed,
            "episodes": self.settings.episodes,
            "chunk_batches": self.settings.chunk_batches,
            "max_steps": self.settings.max_steps,
        }

    # --- playing ---------------------------------------------------------------------------------------------------

    def seed_of(self, stream: int, chunk: int) -> int:
        """The seed of a chunk: far from those of other streams, and as many apart as there are environments."""
        first = int(np.random.SeedSequence([self.settings.seed, stream]).generate_state(1)[0])
        return (first + chunk * self.env.num_envs) % 2**31

    def play(
        self, stream: int, chunk: int, policy: ActorCriticPolicy | None = None, n_batches: int | None = None
    ) -> list[EpisodeBatch]:
        """The batches of a chunk, the same whenever they are asked for."""
        player = self.player if policy is None else self._player(policy)
        n_batches = self.settings.chunk_batches if n_batches is None else n_batches
        return player.play(n_batches, self.settings.episodes, self.seed_of(stream, chunk))

    def measured_batches(self, chunk: int) -> list[EpisodeBatch]:
        """A chunk of the episodes that estimators are measured on, which policies some way off are asked about too."""
        if chunk in self._played:
            return self._played[chunk]
        batches = self.play(STREAMS.index("measure"), chunk)
        if self._kept_bytes <= KEPT_BYTES:
            self._played[chunk] = batches
            self._kept_bytes += sum(map(n_bytes, batches))
        return batches

    @cached_property
    def parameters(self) -> dict[str, th.nn.Parameter]:
        """Those of the actor, of the copy that is measured."""
        return acting_parameters(self.policy, self.play(STREAMS.index("critic"), 0, n_batches=1)[0])

    @cached_property
    def critics(self) -> dict[str, Critic]:
        """By name; the well-fitted one is fitted when an estimator asks for it."""
        critics = {"zero": zero_critic()}
        if self.has_critic:
            critics["model"] = critic_of(self.policy)
        if self.fit is not None:
            critics["fitted"] = self.fit.critic
        return critics

    @property
    def fits_critic(self) -> bool:
        """Whether an estimator wants the well-fitted critic."""
        return any(one.uses_critic and one.critic == "fitted" for one in self.estimators)

    @cached_property
    def fit(self) -> Fit | None:
        """The well-fitted critic, on episodes that nothing else is measured on; None where nobody wants it."""
        if not self.fits_critic:
            return None
        stream, n = STREAMS.index("critic"), self.settings.critic_batches

        def make(_: int) -> Arrays:
            train = concatenate([self.play(stream, 1 + k, n_batches=1)[0] for k in range(n)])
            held_out = concatenate([self.play(stream, 1 + n + k, n_batches=1)[0] for k in range(-(-n // 3))])
            fit = fit_to_returns(self.policy, train, held_out, self.gamma, self.seed_of(stream, 0))
            return fit.arrays()

        stage = self.store.stage("critic", {"gamma": self.gamma, "critic_batches": n}, 1, 1, make)
        return Fit.from_arrays(self.policy, stage.row(0))

    # --- stages ----------------------------------------------------------------------------------------------------

    def gradients(
        self, policy: ActorCriticPolicy, batch: EpisodeBatch, estimators: Sequence[Estimator], log_prob: th.Tensor
    ) -> th.Tensor:
        """``(n_estimators, n_parameters)`` on one batch, of a policy with the measured one's architecture."""
        seen: dict[tuple[str, bool], EpisodeBatch] = {("", False): batch}
        weights = []
        for estimator in estimators:
            view = (estimator.critic, estimator.bootstrap_truncated) if estimator.uses_critic else ("", False)
            if view not in seen:
                seen[view] = with_critic(batch, self.critics[view[0]], view[1])
            per_row, divisor = multipliers(policy, seen[view], estimator, self.gamma, log_prob)
            weights.append(per_row / divisor)
        own = dict(policy.named_parameters())
        return weighted_scores(policy, {name: own[name] for name in self.parameters}, batch, th.stack(weights))

    def reference_stage(
        self, name: str, stream: int, policy: ActorCriticPolicy, n_batches: int, asked: Mapping[str, Any]
    ) -> Stage:
        """The gradients of the objectives, by their unbiased estimators, at a policy that plays itself."""
        chosen = distinct(list(self.references.values()))

        def make(chunk: int) -> Arrays:
            rows = []
            for batch in self.play(stream, chunk, policy):
                gradients = self.gradients(policy, batch, chosen, batch.behaviour_log_prob)
                rows.append(_by_name(chosen, gradients) | facts_of(batch, self.gamma))
            return _stacked(rows)

        asked = {**asked, "gamma": self.gamma, "references": estimator_names(chosen)}
        return self.store.stage(name, asked, n_batches, self.settings.chunk_batches, make)

    def reference(self) -> Stage:
        """That of the measured policy."""
        n_batches = self.settings.reference_batches
        return self.reference_stage("reference", STREAMS.index("reference"), self.policy, n_batches, {})

    def measured(self) -> Stage:
        """The gradients of all estimators on the same batches, raw and after an optimizer, and the critics' marks."""
        settings = self.settings
        chosen = distinct([*self.estimators, *self.references.values()])

        def make(chunk: int) -> Arrays:
            """A row a batch."""
            rows = []
            for number, batch in enumerate(self.measured_batches(chunk)):
                gradients = self.gradients(self.policy, batch, chosen, batch.behaviour_log_prob)
                row = _by_name(chosen, gradients) | facts_of(batch, self.gamma)
                seed = self.seed_of(STREAMS.index("measure"), chunk) + number
                for transform in settings.transforms:
                    used = gradients[: len(self.estimators)]
                    after = self.transformed(transform, batch, used, batch.n_rows / settings.episodes, seed)
                    row |= _by_name(self.estimators, after, transform)
                for name, critic in self.critics.items():
                    row[f"explained/{name}"] = explained_variance(critic, batch, self.gamma)
                rows.append(row)
            return _stacked(rows)

        asked = {
            "gamma": self.gamma,
            "estimators": estimator_names(chosen),
            "transforms": settings.transforms,
            "natural": [settings.natural_rows, settings.damping, settings.iterations],
            "optimizer": self._optimizer_asked() if "optimizer" in settings.transforms else None,
            "critic": settings.critic_batches if self.fits_critic else None,
        }
        return self.store.stage("measure", asked, settings.batches, settings.chunk_batches, make)

    def _optimizer_asked(self) -> list[str]:
        optimizer = self.model.policy.optimizer
        state = {
            f"{number} {name}": value
            for number, one in enumerate(optimizer.state.values())
            for name, value in one.items()
            if th.is_tensor(value)
        }
        groups = [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]
        return [str(groups), fingerprint_of_tensors(state), str(self.settings.fresh_optimizer)]

    def transformed(
        self, transform: str, batch: EpisodeBatch, gradients: th.Tensor, mean_length: float, seed: int
    ) -> th.Tensor:
        """What the natural gradient, or the model's optimizer, makes of each of some gradients.

        The optimizer is given the gradient of the mean over steps, the scale of SB3's losses: without the entropy, the
        critic and the clipping of training.

        :param batch: whose states the Fisher matrix is made of
        """
        settings = self.settings
        if transform == "optimizer":
            own = dict(self.model.policy.named_parameters())
            mine = {name: own[name] for name in self.parameters}
            scaled = gradients / mean_length
            return optimizer_steps(self.model.policy.optimizer, mine, scaled, settings.fresh_optimizer)
        with own_random_numbers(seed):  # the solver begins with a guess
            rows = settings.natural_rows
            return natural_gradients(self.policy, batch, gradients, settings.damping, settings.iterations, rows)

    @cached_property
    def direction(self) -> th.Tensor:
        """``(n_parameters,)`` where drift and landscape go."""
        gradient = self.reference().column(f"raw/{self.references['undiscounted'].name}").double().mean(0)
        if self.settings.direction == "random":
            return random_direction(len(gradient), self.seed_of(STREAMS.index("drift"), 0))
        if self.settings.direction == "natural":
            seed = self.seed_of(STREAMS.index("reference"), 0)
            return self.transformed("natural", self.reference_states, gradient[None], 1.0, seed)[0]
        return gradient

    @cached_property
    def reference_states(self) -> EpisodeBatch:
        """The first episodes of the reference: whose states stand for those of the policy."""
        return concatenate(self.play(STREAMS.index("reference"), 0))

    def step(self, kl: float) -> Step:
        """The one along the direction with this KL(old || new).

        :raises NoSuchStep: if there is none
        """
        return step_of_kl(self.policy, self.parameters, self.reference_states, self.direction, kl)

    def _direction_asked(self) -> dict[str, Any]:
        settings = self.settings
        solver = [settings.natural_rows, settings.damping, settings.iterations]
        of_gradient = {"reference_batches": settings.reference_batches, "gamma": self.gamma, "solver": solver}
        return {"direction": settings.direction, "from": None if settings.direction == "random" else of_gradient}

    def drift(self, number: int, step: Step, kl: float) -> tuple[Stage, Stage]:
        """The reference at a policy some way off, and what estimators make of the old policy's episodes there."""
        there = shifted(self.policy, self.parameters, step.vector)
        asked = {**self._direction_asked(), "kl": kl}
        stream, n_batches = STREAMS.index("drift") + 1 + number, self.settings.batches
        reference = self.reference_stage("drift-reference", stream, there, n_batches, asked | {"stream": stream})

        def make(chunk: int) -> Arrays:
            rows = []
            for batch in self.measured_batches(chunk):
                log_prob = log_probs_under(there, batch)
                gradients = self.gradients(there, batch, self.drift_estimators, log_prob)
                row = _by_name(self.drift_estimators, gradients) | facts_of(batch, self.gamma)
                rows.append(row | weight_statistics(batch, log_prob))
            return _stacked(rows)

        asked |= {"gamma": self.gamma, "estimators": estimator_names(self.drift_estimators)}
        return reference, self.store.stage("drift", asked, n_batches, self.settings.chunk_batches, make)

    def landscape(self, step: Step, size: float) -> Stage:
        """Returns of the policy at so many times the step, on the same seeds for each size, and what was promised."""
        there = shifted(self.policy, self.parameters, size * step.vector)
        promise = self.references["undiscounted"]

        def make(chunk: int) -> Arrays:
            rows = []
            played = self.play(STREAMS.index("landscape"), chunk, there)
            for new, old in zip(played, self.measured_batches(chunk), strict=True):
                log_prob = log_probs_under(there, old)
                gains = surrogate_gains(old, log_prob, promise, self.gamma, self.settings.clip_range)
                plain, clipped = (one.double().mean().item() for one in gains)
                rows.append(facts_of(new, self.gamma) | {"surrogate": plain, "clipped": clipped})
            return _stacked(rows)

        settings = self.settings
        asked = {**self._direction_asked(), "kl": settings.landscape_kl, "size": size, "clip": settings.clip_range}
        return self.store.stage("landscape", asked, settings.landscape_batches, settings.chunk_batches, make)

    @property
    def optimizer_state(self) -> str:
        """What is known of the state that ``"optimizer"`` begins with."""
        forget = self.settings.fresh_optimizer or not has_state(self.model.policy.optimizer)
        return "fresh" if forget else "the model's own"


def _by_name(estimators: Sequence[Estimator], gradients: th.Tensor, prefix: str = "raw") -> dict[str, Any]:
    return {f"{prefix}/{one.name}": g.float().numpy() for one, g in zip(estimators, gradients, strict=True)}


def _stacked(rows: Sequence[Mapping[str, Any]]) -> Arrays:
    """One array of each name, ``(n_rows, ...)``."""
    return {name: np.stack([np.asarray(row[name]) for row in rows]) for name in rows[0]}
