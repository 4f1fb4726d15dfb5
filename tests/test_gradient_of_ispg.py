"""The gradient that ``OffPolicyISPG.learn`` hands to its optimizer in each step of an update is the literal formula.

The reference shares nothing with the package: it knows the steps from a recorder around each environment, weighs them
with the plain Python of :mod:`tests.estimators.reference` and :func:`literal_weights`, and adds the scores up one by
one in double precision, under the policy as it was before the gradient step. The policies that sampled are those of
the beginning of each iteration. Plain gradient descent moves them so far that the ratios matter: an update whose
largest |rho - 1| is below 0.05 in its last step fails.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticPolicy

from sb3_pg import OffPolicyISPG
from sb3_pg.common.minibatches import Minibatch, minibatches
from sb3_pg.common.type_aliases import EpisodeBatch
from sb3_pg.estimators import EpisodeIndex
from sb3_pg.off_policy_ispg import off_policy_ispg
from tests.estimators import reference
from tests.helpers import (
    GradientStep,
    Played,
    RandomEnv,
    Reference,
    Rows,
    Step,
    Tape,
    batched,
    divisors_of_learn,
    literal_gradient,
    log_prob_of,
    mean_and_scale,
    record,
    samples_of_learn,
)
from tests.tabular import TabularEnv, long_episodes_pay
from tests.test_gradient_of_learn import OBSERVATIONS, SPACES, Negate

# --- the literal formulas -------------------------------------------------------------------------------------------


def log_ratios(tape: Tape, policy: ActorCriticPolicy, played: Played) -> Rows:
    """log pi - log of the policy that sampled it, of each step."""
    return [
        [log_prob_of(tape, policy, piece, s) - log_prob_of(tape, tape.policies[s.iteration], piece, s) for s in piece.steps]
        for piece in played.pieces
    ]


def literal_weights(
    model: OffPolicyISPG, tape: Tape, policy: ActorCriticPolicy, sample: Sequence[Played], max_weight: float
) -> Rows:
    """The weight of each step of a sample: p / sum_k share_k q_k along the path of the level, tamed.

    Along a path p / q_own comes first; q_own is what the environments were really played with, of a carried step the
    policy of an earlier iteration.
    """
    level = model.importance
    counts = [len(one.pieces) if level in ("trajectory", "per_decision") else one.n_rows for one in sample]
    shares = [count / sum(counts) for count in counts]
    weights: Rows = []
    for own, own_share in zip(sample, shares, strict=True):
        above = reference.path_weights(log_ratios(tape, policy, own), level)
        others = [
            (share, reference.path_weights(log_ratios(tape, tape.policies[one.iteration], own), level))
            for one, share in zip(sample, shares, strict=True)
            if one is not own
        ]
        weights += [
            [w / (own_share + sum(share * paths[i][t] for share, paths in others)) for t, w in enumerate(row)]
            for i, row in enumerate(above)
        ]
    alpha = model.defensive_coef
    weights = [[min(w / (1 - alpha + alpha * w), max_weight) for w in row] for row in weights]
    return reference.self_normalized(weights, level) if model.self_normalize else weights


def literal_credit(model: OffPolicyISPG, sample: Sequence[Played], weights: Rows) -> list[float]:
    """What the score of each step of a sample is multiplied by."""
    advantages = [row for one in sample for row in one.advantages]
    mean, scale = mean_and_scale(advantages) if model.normalize_advantage else (0.0, 1.0)
    if model.importance == "per_decision":
        rewards = [row for one in sample for row in one.rewards]
        baseline = [[b + mean for b in row] for one in sample for row in one.baseline]
        credit = reference.per_decision_credit(weights, rewards, baseline, model.gamma)
        credit = [[c / scale for c in row] for row in credit]
    else:
        pairs = zip(advantages, weights, strict=True)
        credit = [[(a - mean) / scale * w for a, w in zip(*rows, strict=True)] for rows in pairs]
    gamma = model.gamma if model.discount_gradient else 1.0
    first = [piece.first for one in sample for piece in one.pieces]
    return [c * gamma ** (first[i] + t) for i, row in enumerate(credit) for t, c in enumerate(row)]


def literal_kl(old: ActorCriticPolicy, new: ActorCriticPolicy, step: Step) -> th.Tensor:
    """KL(old || new) in the state of a step: sum p log p/q of categories, the integral of p log p/q of normals."""

    def parts(policy: ActorCriticPolicy) -> Any:
        distribution = policy.get_distribution(batched(step.observation))
        return getattr(distribution, "distributions", None) or [distribution.distribution]

    kl = th.zeros((), dtype=th.float64)
    for p, q in zip(parts(old), parts(new), strict=True):
        if isinstance(p, th.distributions.Normal):
            kl = kl + (q.stddev / p.stddev).log().sum() - 0.5 * p.mean.numel()
            kl = kl + ((p.variance + (p.mean - q.mean) ** 2) / (2 * q.variance)).sum()
        elif isinstance(p, th.distributions.Bernoulli):
            kl = kl + (p.probs * (p.probs / q.probs).log()).sum()
            kl = kl + ((1 - p.probs) * ((1 - p.probs) / (1 - q.probs)).log()).sum()
        else:
            kl = kl + (p.probs * (p.probs / q.probs).log()).sum()
    return kl


def literal_step(
    model: OffPolicyISPG, tape: Tape, taken: GradientStep, sample: Sequence[Played], divisor: float
) -> Reference:
    """The gradient that a step should have handed to the optimizer."""
    policy, start = taken.policy, tape.policies[taken.iteration]
    assert policy is not None
    if model.clip_range is None:
        weights = literal_weights(model, tape, policy, sample, model.max_weight or math.inf)
        credit = literal_credit(model, sample, weights)

        def surrogate(row: int, log_prob: th.Tensor) -> th.Tensor:
            return credit[row] * log_prob
    else:
        eps = float(model.clip_range)  # type: ignore[arg-type]  # no schedule here
        worth = literal_credit(model, sample, literal_weights(model, tape, start, sample, max_weight=10.0))
        before = [log_prob_of(tape, start, piece, s) for one in sample for piece in one.pieces for s in piece.steps]

        def surrogate(row: int, log_prob: th.Tensor) -> th.Tensor:
            rho = (log_prob - before[row]).exp()
            return th.min(rho * worth[row], rho.clamp(1 - eps, 1 + eps) * worth[row])

    def penalty(step: Step) -> th.Tensor:
        return taken.kl_coef * literal_kl(start, policy, step)

    is_penalised = model.kl_constraint == "penalty"
    return literal_gradient(model, tape, policy, sample, surrogate, divisor, penalty if is_penalised else None)


# --- the comparison -------------------------------------------------------------------------------------------------


def ratios_of_last_steps(tape: Tape, samples: dict[int, list[Played]]) -> dict[int, np.ndarray]:
    """Per iteration rho of the newest steps, before the last gradient step, to the policy at the update's start."""
    last = {taken.iteration: taken.policy for taken in tape.gradient_steps}
    return {
        iteration: np.exp(
            [
                log_prob_of(tape, last[iteration], piece, s) - log_prob_of(tape, tape.policies[iteration], piece, s)
                for piece in sample[0].pieces
                for s in piece.steps
            ]
        )
        for iteration, sample in samples.items()
    }


def assert_literal(model: OffPolicyISPG, tape: Tape, tolerance: float = 1e-6) -> dict[int, list[Played]]:
    """Every step's gradient is the reference (see :meth:`Reference.error`), in two updates or more of n_epochs steps.

    :return: what each update learned from
    """
    samples = samples_of_learn(model, tape)
    divisors = divisors_of_learn(model, samples)
    iterations = [taken.iteration for taken in tape.gradient_steps]
    assert iterations == [iteration for iteration in samples for _ in range(model.n_epochs)] and len(samples) >= 2
    ERRORS.append(0.0)
    for k, taken in enumerate(tape.gradient_steps):
        expected = literal_step(model, tape, taken, samples[taken.iteration], divisors[taken.iteration])
        error = expected.error(taken.gradient)
        ERRORS[-1] = max(ERRORS[-1], error)
        assert error <= tolerance, f"step {k % model.n_epochs} of iteration {taken.iteration}: error {error:.1e}"
    n_batches = max(map(len, samples.values()))
    full = [i for i, sample in samples.items() if len(sample) == n_batches]
    ratios = ratios_of_last_steps(tape, samples)
    moved = [float(np.abs(ratios[i] - 1).max()) for i in full]
    global MOVED
    MOVED = [round(x, 2) for x in moved]
    assert max(moved) > 0.05, f"the policy hardly moved: {moved}"
    return samples
ERRORS = []


def carried(samples: dict[int, list[Played]]) -> bool:
    """Whether an update used steps that an earlier iteration than its own sampled."""
    return any(
        s.iteration != i for i, (newest, *_) in samples.items() for piece in newest.pieces for s in piece.steps
    )


def tabular_env() -> gym.Env[int, int]:
    return TabularEnv(long_episodes_pay(), horizon_end="truncated")


def learn(n_envs: int = 2, n_iterations: int = 4, **arguments: Any) -> tuple[OffPolicyISPG, Tape]:
    """OffPolicyISPG with nothing but what a test asks for."""
    plain: dict[str, Any] = {
        "n_epochs": 3,
        "n_steps": 9,
        "gamma": 0.9,
        "learning_rate": 0.2,
        "returns": "reward_to_go",
        "baseline": "none",
        "incomplete_episodes": "carry",
        "bootstrap_truncated": False,
        "target_kl": None,
        "n_value_updates": 1,
        "value_learning_rate": None,
    }
    make_env = arguments.pop("make_env", tabular_env)
    return record(make_env, n_envs, n_iterations, algorithm=OffPolicyISPG, **plain | arguments)


OWN_CRITIC: dict[str, Any] = {"baseline": "value", "value_learning_rate": 0.1, "bootstrap_truncated": True}

TAMED: dict[str, dict[str, Any]] = {
    "plain": {},
    "max_weight": {"max_weight": 1.02},
    "defensive": {"defensive_coef": 0.4},
    "self_normalize": {"self_normalize": True},
}
ESTIMATORS: dict[str, dict[str, Any]] = {
    "none": {"returns": "total"},
    "leave_one_out": {"returns": "total", "baseline": "leave_one_out"},
    "time_leave_one_out": {"returns": "reward_to_go", "baseline": "time_leave_one_out"},
    "value": {"returns": "gae", "gae_lambda": 0.8} | OWN_CRITIC,
}
# Of each two of the choices nearly every combination occurs, of level, taming and reuse every combination of all three
SETTINGS = [
    (level, tamed, n_reused, list(ESTIMATORS)[(i + j + n_reused) % 4], bool((i + n_reused) % 2), [None, 5][(i + j) % 2])
    for (i, level), (j, tamed), n_reused in itertools.product(
        enumerate(["timestep", "per_decision", "trajectory"]), enumerate(TAMED), range(3)
    )
]


@pytest.mark.parametrize(
    ("importance", "tamed", "n_reused_batches", "estimator", "discount_gradient", "micro_batch_size"), SETTINGS
)
def test_gradient_is_the_literal_sum(
    importance: str,
    tamed: str,
    n_reused_batches: int,
    estimator: str,
    discount_gradient: bool,
    micro_batch_size: int | None,
) -> None:
    """Every level, plain and tamed, with up to two batches used again; each with episodes that were carried over."""
    estimator_arguments = ESTIMATORS[estimator]
    if importance == "per_decision":
        estimator_arguments = estimator_arguments | {"returns": "reward_to_go"}
    model, tape = learn(
        importance=importance,
        n_reused_batches=n_reused_batches,
        discount_gradient=discount_gradient,
        micro_batch_size=micro_batch_size,
        **TAMED[tamed],
        **estimator_arguments,
    )
    samples = assert_literal(model, tape, 1)
    assert carried(samples) and max(map(len, samples.values())) == 1 + n_reused_batches
