"""Named estimators of the policy gradient: each says what the score of every step is multiplied by.

The formulas are those of training: :mod:`sb3_pg.rollout.credit`, :mod:`sb3_pg.update.weighting` and
:mod:`sb3_pg.estimators`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args, get_type_hints

import torch as th
from stable_baselines3.common.on_policy_algorithm import OnPolicyAlgorithm
from stable_baselines3.common.policies import ActorCriticPolicy

from sb3_pg.data.batch import Credit, EpisodeBatch, Returns
from sb3_pg.data.checks import check_choice, check_positive, check_unit_interval
from sb3_pg.data.minibatches import whole_batch
from sb3_pg.estimators import BATCH_BASELINES, EPISODE_LEVELS, LEVELS, Importance, discount_factors, loss_divisor
from sb3_pg.rollout.credit import baseline_of, returns_of
from sb3_pg.update.episode_gradients import optimal_baseline
from sb3_pg.update.weighting import WeightedSample, Weighting
from sb3_pg.variance.instruments.critics import CRITICS

Aim = Literal["discounted", "undiscounted"]
BASELINES = ("none", "value", "optimal", *BATCH_BASELINES)


@dataclass(frozen=True)
class Estimator:
    """One estimator, g = (1/divisor) sum_i sum_t multiplier[i,t] grad log pi(a[i,t] | s[i,t]).

    Baselines of the batch are those of the batch of ``episodes`` that the gradient is of.

    :param returns: ``"total"``, ``"reward_to_go"`` or ``"gae"``
    :param baseline: a baseline's name; ``"value"`` for a critic
    :param critic: which critic, see :mod:`sb3_pg.variance.instruments.critics`: ``"model"``, ``"fitted"`` or ``"zero"``
    :param bootstrap_truncated: add gamma V(terminal observation) at a time limit
    :param discount_gradient: the factor gamma^t
    :param normalize: shift and scale the advantages of the batch to mean 0 and deviation 1, as SB3 does
    :param importance: the level of the weights, where another policy played
    :param self_normalize, max_weight: how the weights are tamed, see :mod:`sb3_pg.estimators.importance`
    :param loss_reduction: what the sum is divided by: ``"episode"``, or ``"step"`` as in SB3's losses
    :param gamma: None for the one of the measurement
    """

    returns: Returns = "reward_to_go"
    baseline: str = "none"
    critic: str = "model"
    gae_lambda: float = 1.0
    bootstrap_truncated: bool = False
    discount_gradient: bool = False
    normalize: bool = False
    importance: Importance = "none"
    self_normalize: bool = False
    max_weight: float = math.inf
    loss_reduction: Literal["episode", "step"] = "episode"
    gamma: float | None = None

    def __post_init__(self) -> None:
        check_choice("returns", self.returns, get_args(Returns))
        check_choice("baseline", self.baseline, BASELINES)
        check_choice("critic", self.critic, CRITICS)
        check_choice("importance", self.importance, LEVELS)
        check_choice("loss_reduction", self.loss_reduction, ("episode", "step"))
        check_unit_interval("gae_lambda", self.gae_lambda)
        check_positive("max_weight", self.max_weight)
        if self.gamma is not None:
            check_unit_interval("gamma", self.gamma)
        self._check_combination()

    def _check_combination(self) -> None:
        if self.returns == "gae" and self.baseline != "value":
            raise ValueError(f"returns='gae' is relative to a critic: write baseline='value', not {self.baseline!r}")
        if self.returns == "total" and self.discount_gradient:
            raise ValueError("returns='total' is discounted from the start already: write discount_gradient=False")
        if self.bootstrap_truncated and not self.uses_critic:
            raise ValueError("bootstrap_truncated needs a critic's value: write baseline='value'")
        if self.importance == "per_decision" and (self.returns != "reward_to_go" or self.baseline == "optimal"):
            raise ValueError(
                "importance='per_decision' weighs each reward: write returns='reward_to_go' and another baseline than "
                "'optimal'"
            )

    @property
    def uses_critic(self) -> bool:
        """Whether a critic has a say in it."""
        return self.baseline == "value"

    @property
    def keeps_scale(self) -> bool:
        """Whether it is of the objective's own scale: else only its direction can be compared."""
        return not self.normalize and self.loss_reduction == "episode"

    @property
    def aim(self) -> Aim:
        """The objective whose gradient it is meant to be.

        The discounted return from the start with ``returns="total"`` or ``discount_gradient``. Without the factor
        gamma^t the estimate follows no objective's gradient where gamma < 1; what it is used for is the undiscounted
        return, gamma being there to lower its variance (Schulman et al. 2016, section 2).
        """
        return "discounted" if self.returns == "total" or self.discount_gradient else "undiscounted"

    @property
    def name(self) -> str:
        """What tables and figures call it."""
        words = [f"gae {self.gae_lambda:g}" if self.returns == "gae" else self.returns]
        words += [f"{self.critic} critic"] if self.uses_critic else []
        words += [] if self.uses_critic or self.baseline == "none" else [self.baseline]
        words += ["bootstrapped"] if self.bootstrap_truncated else []
        words += ["gamma^t"] if self.discount_gradient else []
        words += ["normalized"] if self.normalize else []
        words += [self.importance] if self.importance != "none" else []
        words += ["self-normalized"] if self.self_normalize else []
        words += [f"w <= {self.max_weight:g}"] if self.max_weight < math.inf else []
        words += ["per step"] if self.loss_reduction == "step" else []
        words += [f"gamma {self.gamma:g}"] if self.gamma is not None else []
        return ", ".join(words)


def parse_estimator(text: str) -> Estimator:
    """An estimator from ``"returns=gae,baseline=value,gae_lambda=0.9"``.

    :raises ValueError: for an unknown name or value
    """
    kinds = get_type_hints(Estimator)
    given: dict[str, Any] = {}
    for part in filter(None, (one.strip() for one in text.split(","))):
        name, equals, value = part.partition("=")
        if not equals or name not in kinds:
            raise ValueError(f"an estimator is given as name=value,... with names of {', '.join(kinds)}; got {part!r}")
        given[name] = _parsed(name, value, kinds[name])
    return Estimator(**given)


def distinct(estimators: Sequence[Estimator]) -> tuple[Estimator, ...]:
    """Each once: two of one name are the same."""
    return tuple({one.name: one for one in estimators}.values())


def _parsed(name: str, value: str, kind: Any) -> Any:
    if kind is bool:
        if value.lower() not in ("true", "false"):
            raise ValueError(f"{name} must be true or false, got {value!r}")
        return value.lower() == "true"
    if kind is float or float in get_args(kind):
        try:
            return float(value)
        except ValueError:
            raise ValueError(f"{name} must be a number, got {value!r}") from None
    return value


def multipliers(
    policy: ActorCriticPolicy,
    batch: EpisodeBatch,
    estimator: Estimator,
    gamma: float,
    log_prob: th.Tensor,
) -> tuple[th.Tensor, th.Tensor]:
    """What the score of each step is multiplied by, and what the sum over the steps is divided by.

    :param policy: whose gradient is estimated
    :param batch: as the estimator's critic sees it, see :func:`~sb3_pg.variance.instruments.critics.with_critic`
    :param gamma: of an estimator that has none of its own
    :param log_prob: ``(n_rows,)`` of the actions under that policy
    :return: ``(n_rows,)`` and a scalar
    """
    gamma = gamma if estimator.gamma is None else estimator.gamma
    weighting = Weighting(
        estimator.importance,
        gamma,
        estimator.max_weight,
        self_normalize=estimator.self_normalize,
        normalize_advantage=estimator.normalize,
        discount=gamma if estimator.discount_gradient else None,
    )
    part, none = whole_batch(batch), th.zeros_like(log_prob)
    earned = returns_of(batch, estimator.returns, gamma, estimator.gae_lambda)
    sample = WeightedSample(batch, Credit(earned, earned, earned), none, log_prob)
    weights = weighting.normalized(weighting.bounded(sample, part, log_prob), part)
    if estimator.baseline == "optimal":
        factor = weights * discount_factors(
            batch.episodes, gamma if estimator.discount_gradient else 1.0, weights.dtype
        )
        baseline = optimal_baseline(policy, batch, factor * earned, factor)
    else:
        baseline = baseline_of(batch, earned, estimator.baseline)
    sample = dataclasses.replace(sample, credit=Credit(earned, earned - baseline, earned))
    return weighting.weighted(sample, part, weights), loss_divisor(batch.episodes, estimator.loss_reduction)


def row_weights(batch: EpisodeBatch, importance: Importance, log_prob: th.Tensor) -> th.Tensor:
    """The importance weights of a level, one for each part that has a weight of its own.

    :return: ``(n_rows,)``, or ``(n_episodes,)`` for ``"trajectory"``
    """
    sample = WeightedSample(batch, Credit(log_prob, log_prob, log_prob), th.zeros_like(log_prob), log_prob)
    weights = Weighting(importance, 1.0).bounded(sample, whole_batch(batch), log_prob)
    return weights[batch.episodes.first_row] if importance == "trajectory" else weights


def references(gamma: float) -> dict[str, Estimator]:
    """The unbiased estimators of the objectives' gradients: rewards to go less the mean of the other episodes'."""
    undiscounted = Estimator("reward_to_go", "time_leave_one_out", gamma=1.0)
    if gamma == 1.0:
        return {"undiscounted": undiscounted}
    discounted = Estimator("reward_to_go", "time_leave_one_out", discount_gradient=True, gamma=gamma)
    return {"undiscounted": undiscounted, "discounted": discounted}


def own_estimator(model: OnPolicyAlgorithm) -> Estimator | None:
    """What the model itself learns by; None for a baseline that the user wrote."""
    normalize = bool(getattr(model, "normalize_advantage", False))
    if not hasattr(model, "returns"):  # PPO, A2C, TRPO
        return Estimator("gae", "value", "model", model.gae_lambda, True, normalize=normalize, loss_reduction="step")
    baseline: Any = getattr(model, "baseline", None)
    if baseline not in BASELINES:
        return None
    return Estimator(
        returns=model.returns,
        baseline=baseline,
        gae_lambda=model.gae_lambda if model.returns == "gae" else 1.0,
        bootstrap_truncated=baseline == "value" and bool(getattr(model, "bootstrap_truncated", False)),
        discount_gradient=bool(getattr(model, "discount_gradient", False)),
        normalize=normalize,
        # The running mean of past lengths is a constant: the direction of "episode"
        loss_reduction="step" if getattr(model, "loss_reduction", "step") == "step" else "episode",
    )


def default_estimators(model: OnPolicyAlgorithm, has_critic: bool) -> tuple[Estimator, ...]:
    """Returns x baseline, lambda x critic, normalisation, and what the model itself learns by.

    :param has_critic: whether the model has one
    """
    learned = ("model", "fitted") if has_critic else ("fitted",)
    chosen = [Estimator("total", name) for name in ("none", "batch_mean", "leave_one_out", "optimal")]
    to_go = ("none", "batch_mean", "time_mean", "leave_one_out", "time_leave_one_out", "optimal")
    chosen += [Estimator("reward_to_go", name) for name in to_go]
    chosen += [Estimator("reward_to_go", "value", critic) for critic in learned]
    chosen += [Estimator("gae", "value", "zero", 0.9)]
    chosen += [Estimator("gae", "value", critic, lam) for critic in learned for lam in (0.0, 0.5, 0.9, 0.97)]
    chosen += [Estimator("reward_to_go", "time_leave_one_out", normalize=True)]
    own = own_estimator(model)
    chosen += [own] if own is not None else []
    return tuple(dict.fromkeys(chosen))


def default_drift_estimators() -> tuple[Estimator, ...]:
    """The ladder of weights, without a baseline and with one."""
    ladder = [Estimator("reward_to_go", b, importance=w) for b in ("none", "time_leave_one_out") for w in LEVELS]
    tamed = [Estimator("reward_to_go", "none", importance=w, self_normalize=True) for w in EPISODE_LEVELS]
    return (*ladder, *tamed)
