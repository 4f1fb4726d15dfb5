"""The gradients that ``learn`` should have handed to its optimizer, from a tape of what was played.

A loop over the steps: the score of each by ``autograd.grad``, in double precision, times what it is multiplied by, with
the returns and baselines of :mod:`tests.helpers.literal`.
Nothing here is taken from the package's buffers or estimators.
"""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property, partial
from typing import Any

import numpy as np
import torch as th
from stable_baselines3.common.policies import ActorCriticPolicy

from sb3_pg.common.base_algorithm import PolicyGradientAlgorithm
from sb3_pg.data.batch import EpisodeBatch
from tests.helpers import literal
from tests.helpers.literal import Rows
from tests.helpers.recording import Episode, Step, Tape


@dataclass(frozen=True)
class Piece:
    """The part of an episode that an iteration uses: all of it, or what the rollout saw of it.

    :param first: t of its first step
    :param whole: whether the episode's end is part of it
    """

    episode: Episode
    steps: list[Step]
    first: int
    whole: bool


def pieces_of_iteration(tape: Tape, iteration: int, incomplete_episodes: str) -> list[Piece]:
    """What an iteration without a quota has to use under each rule: environment after environment, in order of time."""
    pieces = []
    for episode in sorted(tape.episodes, key=lambda one: one.env):
        here = [step for step in episode.steps if step.iteration == iteration]
        if not here:
            continue
        whole = episode.ended and here[-1] is episode.steps[-1]
        if incomplete_episodes == "carry":
            here = episode.steps
        piece = Piece(episode, here, first=next(t for t, s in enumerate(episode.steps) if s is here[0]), whole=whole)
        if incomplete_episodes in ("bootstrap", "truncate") or (whole and piece.first == 0):
            pieces.append(piece)
    return pieces


def pieces_of_quota(tape: Tape, iterations: range, per_env: int, n_envs: int) -> list[Piece]:
    """The first ``per_env`` whole episodes that each environment played in these iterations; none if one has fewer."""
    chosen = []
    for env in range(n_envs):
        episodes = [one for one in tape.episodes if one.env == env and one.steps and one.ended]
        whole = [
            e for e in episodes if e.steps[0].iteration >= iterations[0] and e.steps[-1].iteration <= iterations[-1]
        ]
        if len(whole) < per_env:
            return []
        chosen += [Piece(episode, episode.steps, first=0, whole=True) for episode in whole[:per_env]]
    return chosen


def pieces_of_learn(model: PolicyGradientAlgorithm, tape: Tape) -> dict[int, list[Piece]]:
    """What each finished iteration has to learn from."""
    used: dict[int, list[Piece]] = {}
    begun = 0
    for iteration in range(len(tape.buffer_rewards)):
        if model.n_episodes is None:
            pieces = pieces_of_iteration(tape, iteration, model.incomplete_episodes)
        else:
            per_env = model.n_episodes // model.n_envs
            pieces = pieces_of_quota(tape, range(begun, iteration + 1), per_env, model.n_envs)
        if pieces:
            begun = iteration + 1
            used[iteration] = pieces
    return used


def batched(observation: Any) -> Any:
    """A batch of one observation."""
    if isinstance(observation, dict):
        return {key: batched(value) for key, value in observation.items()}
    return th.as_tensor(np.asarray(observation))[None]


def evaluate(
    policy: ActorCriticPolicy, observation: Any, action: np.ndarray
) -> tuple[th.Tensor, th.Tensor, th.Tensor | None]:
    """Value, log-probability and entropy of a single step."""
    drawn = th.as_tensor(action)[None]
    value, log_prob, entropy = policy.evaluate_actions(
        batched(observation), drawn.double() if drawn.is_floating_point() else drawn
    )
    assert log_prob.shape == (1,), "one joint log-probability for one action"
    return value[0, 0], log_prob[0], None if entropy is None else entropy[0]


def value_of(policy: ActorCriticPolicy, observation: Any) -> float:
    """V(s), in double precision."""
    return float(policy.predict_values(batched(observation)).detach())


def drawn_action(tape: Tape, piece: Piece, step: Step) -> np.ndarray:
    """The action that the policy drew; the environment got it clipped, if it is one of a bounded Box."""
    drawn: np.ndarray = tape.sampled[step.tick][piece.episode.env]
    return drawn


def seen_and_done(tape: Tape, piece: Piece, step: Step) -> bytes:
    """The observation and the action of a step: of the same ones a policy says the same."""
    if id(step) not in tape.seen_and_done:
        tape.seen_and_done[id(step)] = pickle.dumps((step.observation, drawn_action(tape, piece, step)))
    return tape.seen_and_done[id(step)]


def log_prob_of(tape: Tape, policy: ActorCriticPolicy, piece: Piece, step: Step) -> float:
    """log pi(a|s) of a step under one of the tape's policies, in double precision."""
    key = (id(policy), seen_and_done(tape, piece, step))
    if key not in tape.log_probs:
        with th.no_grad():
            tape.log_probs[key] = evaluate(policy, step.observation, drawn_action(tape, piece, step))[1].item()
    return tape.log_probs[key]


def carried_ratio(tape: Tape, iteration: int, piece: Piece, step: Step) -> float:
    """pi_now / pi_then of a step: 1 if this iteration sampled it."""
    now, then = tape.policies[iteration], tape.policies[step.iteration]
    return math.exp(log_prob_of(tape, now, piece, step) - log_prob_of(tape, then, piece, step))


def carried_weight(model: PolicyGradientAlgorithm, tape: Tape, iteration: int, piece: Piece, t: int) -> float:
    """What multiplies the score of a step beside its advantage, in an algorithm of one step an iteration."""
    ratio = min(carried_ratio(tape, iteration, piece, piece.steps[t]), 10.0)
    return ratio * (model.gamma ** (piece.first + t) if model.discount_gradient else 1)


@dataclass(frozen=True)
class Played:
    """What an iteration has to learn from, and what its steps earned.

    :param rewards: what follows the end of a piece, discounted, is part of its last one
    :param targets: what a critic should have said
    """

    iteration: int
    pieces: list[Piece]
    rewards: Rows
    returns: Rows
    baseline: Rows
    targets: Rows

    @property
    def n_rows(self) -> int:
        """Steps of all pieces."""
        return sum(len(piece.steps) for piece in self.pieces)

    @property
    def advantages(self) -> Rows:
        """The returns less the baseline."""
        pairs = zip(self.returns, self.baseline, strict=True)
        return [[g - b for g, b in zip(*rows, strict=True)] for rows in pairs]


#: Of a batch whose baseline is still to come: what the score of each step is multiplied by without one, and by each
#: unit of one.
Multipliers = Callable[[PolicyGradientAlgorithm, Tape, Played], tuple[Sequence[float], Sequence[float]]]


def _played(
    model: PolicyGradientAlgorithm, tape: Tape, iteration: int, pieces: list[Piece], multipliers: Multipliers
) -> Played:
    policy = tape.policies[iteration]
    last_values = [_last_value(model, policy, piece) for piece in pieces]
    values = [[value_of(tape.policies[s.iteration], s.observation) for s in piece.steps] for piece in pieces]
    rewards = [[step.reward for step in piece.steps] for piece in pieces]
    to_go = literal.reward_to_go(rewards, model.gamma, last_values)
    if model.returns == "gae":
        advantages = literal.generalized_advantage(rewards, values, model.gamma, model.gae_lambda, last_values)
        returns = [[a + v for a, v in zip(*rows, strict=True)] for rows in zip(advantages, values, strict=True)]
    else:
        returns = literal.returns_of(model.returns, rewards, model.gamma, last_values)
    played = Played(
        iteration,
        pieces,
        rewards=[[*r[:-1], r[-1] + model.gamma * last] for r, last in zip(rewards, last_values, strict=True)],
        returns=returns,
        baseline=[],
        targets=returns if model.returns == "gae" else to_go,
    )
    return replace(played, baseline=_baseline(model, tape, played, values, multipliers))


def _last_value(model: PolicyGradientAlgorithm, policy: ActorCriticPolicy, piece: Piece) -> float:
    """What follows the last step of a piece."""
    if not piece.whole:
        is_bootstrapped = model.incomplete_episodes == "bootstrap"
    else:
        is_bootstrapped = piece.episode.truncated and model.bootstrap_truncated
    return value_of(policy, piece.steps[-1].next_observation) if is_bootstrapped else 0.0


def multipliers_of_one_step(
    model: PolicyGradientAlgorithm, tape: Tape, played: Played
) -> tuple[Sequence[float], Sequence[float]]:
    """In an algorithm of one step an iteration."""
    weights = [
        carried_weight(model, tape, played.iteration, piece, t)
        for piece in played.pieces
        for t in range(len(piece.steps))
    ]
    returns = [value for row in played.returns for value in row]
    return [weight * value for weight, value in zip(weights, returns, strict=True)], weights


def optimal_constant(
    model: PolicyGradientAlgorithm, tape: Tape, played: Played, multipliers: tuple[Sequence[float], Sequence[float]]
) -> float:
    """sum_i <R_i, S_i> / sum_i |S_i|^2, gradient by gradient."""
    policy, dots, norms, row = tape.policies[played.iteration], 0.0, 0.0, 0
    for piece in played.pieces:
        scores = [
            gradient_in(policy, evaluate(policy, step.observation, drawn_action(tape, piece, step))[1])
            for step in piece.steps
        ]
        here = slice(row, row + len(scores))
        with_returns, alone = (
            th.stack([m * score for m, score in zip(one[here], scores, strict=True)]).sum(dim=0) for one in multipliers
        )
        dots, norms, row = dots + float(with_returns @ alone), norms + float(alone @ alone), here.stop
    return dots / norms


def callable_baseline(batch: EpisodeBatch) -> th.Tensor:
    """A baseline of the user's, of the step alone, so that its value does not depend on the order of the episodes."""
    return 0.5 - 0.25 * batch.episodes.step.float()


def _baseline(
    model: PolicyGradientAlgorithm, tape: Tape, played: Played, values: Rows, multipliers: Multipliers
) -> Rows:
    """The baseline of each step, with those that need more than the returns."""
    pieces = played.pieces
    if callable(model.baseline):
        return [[0.5 - 0.25 * (piece.first + t) for t in range(len(piece.steps))] for piece in pieces]
    if model.baseline == "optimal":
        return [
            [optimal_constant(model, tape, played, multipliers(model, tape, played))] * len(g) for g in played.returns
        ]
    assert isinstance(model.baseline, str)
    began = [pickle.dumps(piece.steps[0].observation) for piece in pieces]
    return literal.baseline(model.baseline, played.returns, [piece.first for piece in pieces], values, began)


def samples_of_learn(
    model: PolicyGradientAlgorithm, tape: Tape, multipliers: Multipliers = multipliers_of_one_step
) -> dict[int, list[Played]]:
    """Per iteration with an update: what it played, then what it uses again, the latest first."""
    n_reused = getattr(model, "n_reused_batches", 0)
    samples: dict[int, list[Played]] = {}
    latest: list[Played] = []
    for iteration, pieces in pieces_of_learn(model, tape).items():
        latest = [_played(model, tape, iteration, pieces, multipliers), *latest][: 1 + n_reused]
        samples[iteration] = latest
    return samples


def divisors_of_learn(
    model: PolicyGradientAlgorithm, samples: dict[int, list[Played]], past_weight: float = 0.1
) -> dict[int, float]:
    """What the sum over the steps of each sample is divided by.

    :param past_weight: share of a new batch in the running mean of episode lengths
    """
    divisors, mean_length = {}, None
    for iteration, sample in samples.items():
        length = sample[0].n_rows / len(sample[0].pieces)
        past = length if mean_length is None else mean_length
        mean_length = past + past_weight * (length - past)
        n_rows, n_pieces = sum(one.n_rows for one in sample), sum(len(one.pieces) for one in sample)
        divisors[iteration] = {"step": n_rows, "episode": n_pieces, "mean_length": n_pieces * past}[
            model.loss_reduction
        ]
    return divisors


def mean_and_scale(rows: Rows) -> tuple[float, float]:
    """What ``normalize_advantage`` subtracts, and what it divides by."""
    flat = np.array([value for row in rows for value in row])
    return float(flat.mean()), (float(flat.std(ddof=1)) if len(flat) > 1 else 0.0) + 1e-8


@dataclass(frozen=True)
class Reference:
    """A literal gradient, and the size of what was added up.

    :param gradient: ``(n_parameters,)``
    :param size: sum of the norms of its terms: its rounding error in single precision is proportional to that
    """

    gradient: th.Tensor
    size: float

    def error(self, gradient: th.Tensor) -> float:
        """|gradient - reference| / |reference|.

        Where the terms of the sum cancel, so that |reference| is less than a fifth of the sum of their norms, relative
        to that fifth: each term has rounding errors of its own, in single precision a few times 6e-8.
        """
        scale = max(float(self.gradient.norm()), self.size / 5)
        assert scale > 0
        return float((gradient.double() - self.gradient).norm()) / scale


def gradient_in(policy: ActorCriticPolicy, scalar: th.Tensor) -> th.Tensor:
    """The gradient of a scalar in all parameters, flat; 0 in those that it does not depend on."""
    parameters = list(policy.parameters())
    parts: Sequence[th.Tensor | None] = th.autograd.grad(scalar, parameters, allow_unused=True, retain_graph=True)
    return th.cat(
        [(th.zeros_like(p) if part is None else part).flatten() for p, part in zip(parameters, parts, strict=True)]
    )


def literal_gradients(model: PolicyGradientAlgorithm, tape: Tape) -> dict[int, Reference]:
    """The gradient that each iteration should have handed to its optimizer, of an algorithm of one step an iteration:
    g += weight * grad(log_prob), step by step."""
    samples = samples_of_learn(model, tape)
    divisors = divisors_of_learn(model, samples)
    gradients = {}
    for iteration, sample in samples.items():
        (played,) = sample
        mean, scale = mean_and_scale(played.advantages) if model.normalize_advantage else (0.0, 1.0)
        weights = [
            (played.advantages[i][t] - mean) / scale * carried_weight(model, tape, iteration, piece, t)
            for i, piece in enumerate(played.pieces)
            for t in range(len(piece.steps))
        ]
        gradients[iteration] = literal_gradient(
            model,
            tape,
            tape.policies[iteration],
            sample,
            lambda row, log_prob, weights=weights: weights[row] * log_prob,  # type: ignore[misc]
            divisors[iteration],
        )
    return gradients


class Scores:
    """What a policy says of a step, and the gradients of that, each once it is asked for.

    :param penalty: what this step adds to the mean penalty, None without one
    """

    def __init__(
        self, policy: ActorCriticPolicy, observation: Any, action: np.ndarray, penalty: th.Tensor | None
    ) -> None:
        self.policy, self.penalty = policy, penalty
        self.value, self.log_prob, entropy = evaluate(policy, observation, action)
        self.entropy = -self.log_prob if entropy is None else entropy

    @cached_property
    def of_value(self) -> th.Tensor:
        """grad V(s)"""
        return gradient_in(self.policy, self.value)

    @cached_property
    def of_log_prob(self) -> th.Tensor:
        """grad log pi(a|s)"""
        return gradient_in(self.policy, self.log_prob)

    @cached_property
    def of_entropy(self) -> th.Tensor:
        """grad H, or of what stands for the entropy where there is none."""
        return gradient_in(self.policy, self.entropy)

    @cached_property
    def of_penalty(self) -> th.Tensor:
        """Of the penalty that there is."""
        assert self.penalty is not None
        return gradient_in(self.policy, self.penalty)


def slope(function: Callable[[th.Tensor], th.Tensor], at: th.Tensor) -> float:
    """The derivative of a function of one number."""
    argument = at.detach().requires_grad_()
    return float(th.autograd.grad(function(argument), argument)[0])


def literal_gradient(
    model: PolicyGradientAlgorithm,
    tape: Tape,
    policy: ActorCriticPolicy,
    sample: Sequence[Played],
    surrogate: Callable[[int, th.Tensor], th.Tensor],
    divisor: float,
    penalty: Callable[[Step], th.Tensor] | None = None,
) -> Reference:
    """The gradient of the loss at a policy, added up step by step.

    Steps with the same observation and action have the same scores, which are worked out once.

    :param surrogate: from the number of a step in the sample, and its log-prob, to its share of what is maximised
    :param penalty: of a step, its mean is part of the loss
    """
    terms = []
    n_rows = sum(one.n_rows for one in sample)
    steps = [
        (piece, step, target)
        for one in sample
        for piece, targets in zip(one.pieces, one.targets, strict=True)
        for step, target in zip(piece.steps, targets, strict=True)
    ]
    known: dict[bytes, Scores] = {}
    for row, (piece, step, target) in enumerate(steps):
        key = seen_and_done(tape, piece, step)
        if key not in known:
            here = None if penalty is None else penalty(step)
            known[key] = Scores(policy, step.observation, drawn_action(tape, piece, step), here)
        scores = known[key]
        terms.append(-slope(partial(surrogate, row), scores.log_prob) * scores.of_log_prob / divisor)
        if model.ent_coef:
            terms.append(-model.ent_coef * scores.of_entropy / divisor)
        if model.uses_critic and model.value_optimizer is None:
            terms.append(model.vf_coef * 2 * float(scores.value.detach() - target) * scores.of_value / n_rows)
        if penalty is not None:
            terms.append(scores.of_penalty / n_rows)
    every = th.stack(terms)
    return Reference(every.sum(0), float(every.norm(dim=1).sum()))
