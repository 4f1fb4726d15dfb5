"""The gradient that ``OffPolicyISPG.learn`` hands to its optimizer in each step of an update is the literal formula.

The reference shares nothing with the package: it knows the steps from a recorder around each environment, weighs them
with the plain Python of :mod:`tests.helpers.literal` and :func:`literal_weights`, and adds the scores up one by
one in double precision, under the policy as it was before the gradient step. The policies that sampled are those of
the beginning of each iteration. Plain gradient descent moves them so far that the ratios matter: a test in which every
|rho - 1| stays below 0.05, while all batches to be used again are there, fails.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.utils import FloatSchedule

from sb3_pg import OffPolicyISPG
from sb3_pg.common.base_algorithm import PolicyGradientAlgorithm
from sb3_pg.data.batch import EpisodeBatch
from sb3_pg.data.minibatches import Minibatch, minibatches
from sb3_pg.estimators import EpisodeIndex
from tests.helpers import literal
from tests.helpers.environments import OBSERVATIONS, SPACES, RandomEnv
from tests.helpers.gradients import (
    Played,
    Reference,
    batched,
    callable_baseline,
    divisors_of_learn,
    literal_gradient,
    log_prob_of,
    mean_and_scale,
    samples_of_learn,
)
from tests.helpers.literal import Rows
from tests.helpers.recording import GradientStep, Negate, Step, Tape, record
from tests.helpers.spies import replace_everywhere
from tests.helpers.tabular import TabularEnv, long_episodes_pay, tabular_env

# --- the literal formulas -------------------------------------------------------------------------------------------


def log_ratios(tape: Tape, policy: ActorCriticPolicy, played: Played) -> Rows:
    """log pi - log of the policy that sampled it, of each step."""
    return [
        [
            log_prob_of(tape, policy, piece, s) - log_prob_of(tape, tape.policies[s.iteration], piece, s)
            for s in piece.steps
        ]
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
        above = literal.path_weights(log_ratios(tape, policy, own), level)
        others = [
            (share, literal.path_weights(log_ratios(tape, tape.policies[one.iteration], own), level))
            for one, share in zip(sample, shares, strict=True)
            if one is not own
        ]
        weights += [
            [w / (own_share + sum(share * paths[i][t] for share, paths in others)) for t, w in enumerate(row)]
            for i, row in enumerate(above)
        ]
    alpha = model.defensive_coef
    weights = [[min(w / (1 - alpha + alpha * w), max_weight) for w in row] for row in weights]
    return literal.self_normalized(weights, level) if model.self_normalize else weights


def literal_credit(model: OffPolicyISPG, sample: Sequence[Played], weights: Rows) -> list[float]:
    """What the score of each step of a sample is multiplied by."""
    advantages = [row for one in sample for row in one.advantages]
    mean, scale = mean_and_scale(advantages) if model.normalize_advantage else (0.0, 1.0)
    if model.importance == "per_decision":
        rewards = [row for one in sample for row in one.rewards]
        baseline = [[b + mean for b in row] for one in sample for row in one.baseline]
        credit = literal.per_decision_credit(weights, rewards, baseline, model.gamma)
        credit = [[c / scale for c in row] for row in credit]
    else:
        pairs = zip(advantages, weights, strict=True)
        credit = [[(a - mean) / scale * w for a, w in zip(*rows, strict=True)] for rows in pairs]
    gamma = model.gamma if model.discount_gradient else 1.0
    first = [piece.first for one in sample for piece in one.pieces]
    return [c * gamma ** (first[i] + t) for i, row in enumerate(credit) for t, c in enumerate(row)]


def literal_multipliers(
    model: PolicyGradientAlgorithm, tape: Tape, played: Played
) -> tuple[Sequence[float], Sequence[float]]:
    """What the score of each step of a batch alone is multiplied by when its update begins: without a baseline, and per
    unit of a baseline."""
    assert isinstance(model, OffPolicyISPG)
    weights = literal_weights(model, tape, tape.policies[played.iteration], [played], model.max_weight or math.inf)
    nothing = [[0.0] * len(row) for row in weights]
    minus_one = [[-1.0] * len(row) for row in weights]
    alone = replace(played, rewards=nothing, returns=nothing, baseline=minus_one)
    return (
        literal_credit(model, [replace(played, baseline=nothing)], weights),
        literal_credit(model, [alone], weights),
    )


def policy_before(taken: GradientStep) -> ActorCriticPolicy:
    """The policy that a step was taken from."""
    assert taken.policy is not None
    return taken.policy


def literal_kl(old: ActorCriticPolicy, new: ActorCriticPolicy, step: Step) -> th.Tensor:
    """KL(old || new) in the state of a step: sum p log p/q of categories, the integral of p log p/q of normals."""

    def parts(policy: ActorCriticPolicy) -> Any:
        distribution = policy.get_distribution(batched(step.observation)).distribution
        return distribution if isinstance(distribution, list) else [distribution]

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
    policy, start = policy_before(taken), tape.policies[taken.iteration]
    if model.clip_range is None:
        weights = literal_weights(model, tape, policy, sample, model.max_weight or math.inf)
        credit = literal_credit(model, sample, weights)

        def surrogate(row: int, log_prob: th.Tensor) -> th.Tensor:
            return credit[row] * log_prob
    else:
        eps = FloatSchedule(model.clip_range)(1.0)
        worth = literal_credit(model, sample, literal_weights(model, tape, start, sample, max_weight=10.0))
        before = [log_prob_of(tape, start, piece, s) for one in sample for piece in one.pieces for s in piece.steps]

        def surrogate(row: int, log_prob: th.Tensor) -> th.Tensor:
            rho = (log_prob - before[row]).exp()
            return th.min(rho * worth[row], rho.clamp(1 - eps, 1 + eps) * worth[row])

    def penalty(step: Step) -> th.Tensor:
        assert taken.kl_coef is not None
        return taken.kl_coef * literal_kl(start, policy, step)

    is_penalised = model.kl_constraint == "penalty"
    return literal_gradient(model, tape, policy, sample, surrogate, divisor, penalty if is_penalised else None)


# --- the comparison -------------------------------------------------------------------------------------------------


def ratios_to_the_start(tape: Tape, taken: GradientStep, played: Played) -> np.ndarray:
    """``(n_rows,)`` pi / (pi at the update's start) before a gradient step."""
    now, start = policy_before(taken), tape.policies[taken.iteration]
    steps = [(piece, step) for piece in played.pieces for step in piece.steps]
    return np.exp([log_prob_of(tape, now, *one) - log_prob_of(tape, start, *one) for one in steps])


def assert_literal(model: OffPolicyISPG, tape: Tape, tolerance: float = 1e-6) -> dict[int, list[Played]]:
    """Every step's gradient is the reference (see :meth:`Reference.error`), in two updates or more of n_epochs steps.

    :return: what each update learned from
    """
    samples = samples_of_learn(model, tape, literal_multipliers)
    divisors = divisors_of_learn(model, samples)
    iterations = [taken.iteration for taken in tape.gradient_steps]
    assert iterations == [iteration for iteration in samples for _ in range(model.n_epochs)] and len(samples) >= 2
    for k, taken in enumerate(tape.gradient_steps):
        expected = literal_step(model, tape, taken, samples[taken.iteration], divisors[taken.iteration])
        error = expected.error(taken.gradient)
        assert error <= tolerance, f"step {k % model.n_epochs} of iteration {taken.iteration}: error {error:.1e}"
    n_batches = max(map(len, samples.values()))
    full = [taken for taken in tape.gradient_steps if len(samples[taken.iteration]) == n_batches]
    moved = [float(np.abs(ratios_to_the_start(tape, taken, samples[taken.iteration][0]) - 1).max()) for taken in full]
    assert max(moved) > 0.05, f"the policy hardly moved: {moved}"
    return samples


def is_carried(samples: dict[int, list[Played]]) -> bool:
    """Whether an update used steps that an earlier iteration than its own sampled."""
    return any(s.iteration != i for i, (newest, *_) in samples.items() for piece in newest.pieces for s in piece.steps)


def learn(n_envs: int = 2, n_iterations: int = 4, **arguments: Any) -> tuple[OffPolicyISPG, Tape]:
    """OffPolicyISPG with nothing but what a test asks for."""
    plain: dict[str, Any] = {
        "n_epochs": 3,
        "n_steps": 9,
        "gamma": 0.9,
        "learning_rate": 0.15,
        "returns": "reward_to_go",
        "baseline": "none",
        "incomplete_episodes": "carry",
        "bootstrap_truncated": False,
        "target_kl": None,
        "clip_range": None,
        "n_value_updates": 1,
        "value_learning_rate": None,
    }
    make_env = arguments.pop("make_env", tabular_env)
    return record(make_env, n_envs, n_iterations, algorithm=OffPolicyISPG, **plain | arguments)


LEVELS = ("timestep", "per_decision", "trajectory")
OWN_CRITIC: dict[str, Any] = {"baseline": "value", "value_learning_rate": 0.1, "bootstrap_truncated": True}
TAMED: dict[str, dict[str, Any]] = {
    "plain": {},
    "max_weight": {"max_weight": 1.01},
    "defensive": {"defensive_coef": 0.4},
    "self_normalize": {"self_normalize": True},
}
ESTIMATORS: dict[str, dict[str, Any]] = {
    "none": {"returns": "total"},
    "leave_one_out": {"returns": "total", "baseline": "leave_one_out"},
    "time_leave_one_out": {"returns": "reward_to_go", "baseline": "time_leave_one_out"},
    "value": {"returns": "gae", "gae_lambda": 0.8} | OWN_CRITIC,
}
# Every combination of the first three; the others go round
SETTINGS = [
    (level, tamed, n_reused, list(ESTIMATORS)[(i + j + n_reused) % 4], bool((i + n_reused) % 2), [None, 5][(i + j) % 2])
    for (i, level), (j, tamed), n_reused in itertools.product(enumerate(LEVELS), enumerate(TAMED), range(3))
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
    arguments = ESTIMATORS[estimator] | TAMED[tamed]
    if importance == "per_decision":
        arguments |= {"returns": "reward_to_go"}
    model, tape = learn(
        importance=importance,
        n_reused_batches=n_reused_batches,
        # total returns are discounted already
        discount_gradient=discount_gradient and arguments["returns"] != "total",
        micro_batch_size=micro_batch_size,
        **arguments,
    )
    samples = assert_literal(model, tape)
    assert is_carried(samples) and max(map(len, samples.values())) == 1 + n_reused_batches
    if model.max_weight is not None:
        weights = [
            literal_weights(model, tape, policy_before(taken), samples[taken.iteration], model.max_weight)
            for taken in tape.gradient_steps
        ]
        truncated = [w == model.max_weight for rows in weights for row in rows for w in row]
        assert any(truncated) and not all(truncated)


@pytest.mark.parametrize("incomplete_episodes", ["carry", "bootstrap"])
def test_no_weights(incomplete_episodes: str) -> None:
    """With ``importance="none"`` every step counts once, whoever sampled it."""
    model, tape = learn(importance="none", incomplete_episodes=incomplete_episodes, **OWN_CRITIC)
    assert is_carried(assert_literal(model, tape)) == (incomplete_episodes == "carry")


@pytest.mark.parametrize("baseline", ["batch_mean", "time_mean", "optimal", callable_baseline])
@pytest.mark.parametrize("importance", LEVELS)
def test_baselines_are_those_of_the_own_batch(importance: str, baseline: Any) -> None:
    """A batch that is used again keeps the baseline that it had among the episodes it was collected with."""
    model, tape = learn(importance=importance, baseline=baseline, n_reused_batches=1, learning_rate=0.25)
    assert_literal(model, tape)


RULES = {
    "timestep": ["carry", "bootstrap", "truncate", "drop", "quota"],
    "per_decision": ["carry", "drop", "quota"],
    "trajectory": ["carry", "drop", "quota"],
}


@pytest.mark.parametrize(("importance", "rule"), [(level, rule) for level, rules in RULES.items() for rule in rules])
@pytest.mark.parametrize(("bootstrap_truncated", "n_reused_batches"), [(False, 0), (True, 2)])
def test_every_rule_for_cut_episodes(
    importance: str, rule: str, bootstrap_truncated: bool, n_reused_batches: int
) -> None:
    """What follows an edge or a time limit counts as the rule says, also in the batches that are used again; and
    the t of gamma^t is that of the episode, also for a piece of one that began in an earlier rollout."""
    quota = {"n_steps": 30, "n_episodes": 6} if rule == "quota" else {"n_steps": 5, "incomplete_episodes": rule}
    arguments = OWN_CRITIC | quota
    model, tape = learn(
        3,
        make_env=lambda: TabularEnv(long_episodes_pay(horizon=3), horizon_end="truncated"),
        importance=importance,
        n_reused_batches=n_reused_batches,
        discount_gradient=True,
        prepare=lambda model: th.nn.init.normal_(model.policy.value_net.weight),
        **arguments | {"bootstrap_truncated": bootstrap_truncated},
    )
    samples = assert_literal(model, tape)
    pieces = [piece for sample in samples.values() for one in sample for piece in one.pieces]
    assert any(piece.episode.truncated for piece in pieces)
    assert any(piece.first > 0 for piece in pieces) == (rule in ("bootstrap", "truncate"))
    assert is_carried(samples) == (rule == "carry")


@pytest.mark.parametrize("importance", LEVELS)
@pytest.mark.parametrize(("n_reused_batches", "micro_batch_size"), [(0, None), (0, 5), (1, 5)])
def test_normalised_advantages(importance: str, n_reused_batches: int, micro_batch_size: int | None) -> None:
    """Normalised over all steps of the sample, before the weights and gamma^t. To ``per_decision``, whose rewards are
    weighted one by one, the mean is one more baseline."""
    model, tape = learn(
        importance=importance,
        n_reused_batches=n_reused_batches,
        micro_batch_size=micro_batch_size,
        normalize_advantage=True,
        baseline="time_leave_one_out",
        discount_gradient=True,
        learning_rate=0.5,
    )
    assert_literal(model, tape)


@pytest.mark.parametrize("importance", LEVELS)
@pytest.mark.parametrize(
    ("loss_reduction", "n_reused_batches"), [("step", 0), ("episode", 1), ("mean_length", 0), ("mean_length", 1)]
)
def test_the_whole_loss(importance: str, loss_reduction: str, n_reused_batches: int) -> None:
    """The divisor is that of the whole sample, and the entropies' too; a joint critic learns from every step alike.

    (With batches used again the critic has an optimizer of its own, and no part in this gradient.)
    """
    critic = OWN_CRITIC if n_reused_batches else {"baseline": "value", "bootstrap_truncated": True}
    model, tape = learn(
        importance=importance,
        loss_reduction=loss_reduction,
        n_reused_batches=n_reused_batches,
        ent_coef=0.1,
        vf_coef=0.3,
        returns="reward_to_go" if importance == "per_decision" else "gae",
        micro_batch_size=4,
        learning_rate=0.15 if loss_reduction == "step" else 0.05,
        policy_kwargs={"net_arch": [4]},
        **critic,
    )
    assert_literal(model, tape)


@pytest.mark.parametrize("importance", LEVELS)
@pytest.mark.parametrize(("n_reused_batches", "micro_batch_size"), [(0, None), (0, 5), (2, 5)])
def test_penalty(importance: str, n_reused_batches: int, micro_batch_size: int | None) -> None:
    """kl_coef * KL(policy at the update's start || policy), in closed form, the mean over the states of the whole
    sample whatever the loss is divided by; the coefficient is that of the iteration.

    (Its gradient in the logits, q - p, is a difference of nearly equal numbers, exactly 0 in the first step: hence the
    tolerance.)
    """
    model, tape = learn(
        importance=importance,
        n_reused_batches=n_reused_batches,
        micro_batch_size=micro_batch_size,
        kl_constraint="penalty",
        target_kl=0.002,
        kl_coef=0.5,
        loss_reduction="episode",
        learning_rate=0.05,
    )
    assert_literal(model, tape, tolerance=2e-6)
    assert len({taken.kl_coef for taken in tape.gradient_steps}) > 1


@pytest.mark.parametrize("n_reused_batches", [0, 1, 2])
@pytest.mark.parametrize("incomplete_episodes", ["carry", "bootstrap"])
@pytest.mark.parametrize(("normalize_advantage", "micro_batch_size"), [(False, None), (True, 5)])
def test_clipped_objective(
    n_reused_batches: int, incomplete_episodes: str, normalize_advantage: bool, micro_batch_size: int | None
) -> None:
    """min(rho A, clip(rho) A) r_0 with rho = pi / pi_start, and r_0 what a step is worth to pi_start: 1 if it is
    pi_start's own, else pi_start over its behaviour policy, or over the mixture of all. Some steps are clipped, and
    some ratios are out of the range but not clipped."""
    model, tape = learn(
        n_reused_batches=n_reused_batches,
        incomplete_episodes=incomplete_episodes,
        normalize_advantage=normalize_advantage,
        micro_batch_size=micro_batch_size,
        discount_gradient=normalize_advantage,
        clip_range=0.05,
        n_epochs=4,
        learning_rate=0.8 if normalize_advantage else 0.15,
        returns="gae",
        **OWN_CRITIC,
    )
    samples = assert_literal(model, tape)
    assert is_carried(samples) == (incomplete_episodes == "carry")
    sides = {
        (bool(rho > 1), advantage > 0)
        for taken in tape.gradient_steps
        for newest in (samples[taken.iteration][0],)
        for rho, advantage in zip(
            ratios_to_the_start(tape, taken, newest), itertools.chain(*newest.advantages), strict=True
        )
        if abs(rho - 1) > 0.05
    }
    assert (True, True) in sides and len(sides) > 1


def test_clipped_objective_with_large_weights() -> None:
    """Between policies of (0.93, 0.07) and (0.07, 0.93) r_0 of carried steps is 13, which counts 10, or 1/13. (The
    score of a likely action, 1 - 0.93, loses a digit in single precision, hence the tolerance.)"""
    model, tape = learn(
        4,
        8,
        n_steps=5,
        clip_range=0.2,
        policy_kwargs={"net_arch": [], "optimizer_class": Negate},
        prepare=lambda model: model.policy.action_net.bias.data.copy_(th.tensor([1.3, -1.3])),
    )
    samples = assert_literal(model, tape, tolerance=5e-6)
    weights = [
        w
        for iteration, sample in samples.items()
        for row in literal_weights(model, tape, tape.policies[iteration], sample, max_weight=math.inf)
        for w in row
    ]
    assert max(weights) > 12 and min(weights) < 1 / 12


@pytest.mark.parametrize(
    ("actions", "policy", "importance"),
    [
        (actions, policy, LEVELS[(i + j) % 3])
        for (i, actions), (j, policy) in itertools.product(enumerate(SPACES), enumerate(OBSERVATIONS))
    ],
)
def test_every_action_space(actions: str, policy: str, importance: str) -> None:
    """Weights of joint log-probs of the actions drawn, and the KL of the joint action, with a batch used again.

    (The log-density of a Box action is about -4, to 2e-7 in single precision, and a weight is a product of up to six of
    them: hence the tolerance.)
    """
    action_space, arguments = SPACES[actions]
    model, tape = learn(
        n_iterations=3,
        make_env=lambda: RandomEnv(action_space, OBSERVATIONS[policy], horizon=6, end_probability=0.2),
        policy=policy,
        importance=importance,
        n_reused_batches=1,
        baseline="time_leave_one_out",
        learning_rate=0.1,
        ent_coef=0.05,
        kl_constraint="penalty",
        target_kl=0.01,
        policy_kwargs={"net_arch": [5]},
        **arguments,
    )
    tolerance = 5e-6 if isinstance(action_space, spaces.Box) else 1e-6
    assert is_carried(assert_literal(model, tape, tolerance))


# --- minibatches ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("whole_episodes", [False, True])
@pytest.mark.parametrize("batch_size", [None, 1, 2, 7, 20, 1000])
def test_minibatches_are_a_partition(batch_size: int | None, whole_episodes: bool) -> None:
    """An epoch goes through each row once, in another order each time. Minibatches of rows have ``batch_size`` rows,
    but for the last; those of episodes hold whole ones, as many as it takes to have ``batch_size`` rows, in the order
    and with the lengths that their index says. The shares, of rows or of episodes, add up to 1."""
    lengths = np.random.default_rng(0).integers(1, 9, size=30).tolist()
    index = EpisodeIndex.from_lengths(th.tensor(lengths))
    batch: Any = SimpleNamespace(episodes=index, n_rows=index.n_rows)
    np.random.seed(0)
    orders = []
    for _ in range(3):
        parts = list(minibatches(batch, batch_size, whole_episodes))
        rows = [th.arange(index.n_rows)[part.rows].tolist() for part in parts]
        orders.append([row for part in rows for row in part])
        assert sorted(orders[-1]) == list(range(index.n_rows))
        assert [part.n_rows for part in parts] == [len(part) for part in rows]
        assert sum(part.share for part in parts) == pytest.approx(1, abs=1e-12)
        size = index.n_rows if batch_size is None else batch_size
        is_whole = size >= index.n_rows
        for part, own, is_last in zip(parts, rows, [*[False] * (len(parts) - 1), True], strict=True):
            episode, step = index.episode[own].tolist(), index.step[own].tolist()
            if is_whole or whole_episodes:
                each = list(dict.fromkeys(episode))
                assert part.episodes is not None and part.share == len(each) / 30
                assert part.episodes.lengths.tolist() == [lengths[one] for one in each]
                assert part.episodes.step.tolist() == step
                assert [each[one] for one in part.episodes.episode] == episode
                assert is_whole or is_last or len(own) >= size > len(own) - lengths[each[-1]]
            else:
                assert part.episodes is None and part.share == len(own) / index.n_rows
                assert len(own) == size or (is_last and len(own) < size)
        assert is_whole == (len(parts) == 1)
    assert is_whole == (orders[0] == orders[1]) and is_whole == (orders[1] == orders[2])


def nudged_before_training(model: OffPolicyISPG) -> None:
    """Move the parameters between a rollout and its update, so that the weights are not 1 with a learning rate of 0."""
    train = model.train

    def nudge_and_train() -> None:
        for parameter in model.policy.parameters():
            parameter.data += 0.3 * th.randn_like(parameter)
        train()

    model.train = nudge_and_train  # type: ignore[method-assign]


@pytest.mark.parametrize("importance", LEVELS)
@pytest.mark.parametrize(
    ("loss_reduction", "batch_size", "micro_batch_size"),
    [("step", 4, None), ("episode", 10, 3), ("mean_length", 10, None)],
)
def test_minibatches_add_up_to_the_full_gradient(
    importance: str,
    loss_reduction: str,
    batch_size: int,
    micro_batch_size: int | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """At a learning rate of 0 the gradients of an epoch's minibatches, weighted by their shares, make the literal one.

    (With a joint critic only where they are shares of rows: its loss is a mean over rows.)
    """
    epochs: list[list[float]] = []

    def noted(batch: EpisodeBatch, batch_size: int | None, whole_episodes: bool) -> Iterator[Minibatch]:
        epochs.append([])
        for part in minibatches(batch, batch_size, whole_episodes):
            epochs[-1].append(part.share)
            yield part

    replace_everywhere(monkeypatch, minibatches, noted)
    model, tape = learn(
        importance=importance,
        loss_reduction=loss_reduction,
        batch_size=batch_size,
        micro_batch_size=micro_batch_size,
        learning_rate=0.0,
        n_epochs=2,
        n_steps=14,
        discount_gradient=True,
        ent_coef=0.1,
        prepare=nudged_before_training,
        baseline="value" if importance == "timestep" else "time_leave_one_out",
    )
    samples = samples_of_learn(model, tape)
    divisors = divisors_of_learn(model, samples)
    steps = iter(tape.gradient_steps)
    for k, shares in enumerate(epochs):
        taken = [next(steps) for _ in shares]
        iteration = taken[0].iteration
        total = th.stack([share * one.gradient.double() for share, one in zip(shares, taken, strict=True)]).sum(dim=0)
        expected = literal_step(model, tape, taken[0], samples[iteration], divisors[iteration])
        assert len(shares) > 1 and expected.error(total) <= 1e-6, f"epoch {k}: error {expected.error(total):.1e}"
    assert next(steps, None) is None and len(epochs) == 2 * len(samples) >= 4
