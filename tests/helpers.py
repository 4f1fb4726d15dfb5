"""An independent record of what was played, and the literal formulas to compare with.

Nothing here is taken from the package's buffers or estimators: :class:`Recorder` notes each step at the environment,
returns are O(T^2) loops over Python floats, and :func:`literal_gradients` calls ``autograd.grad`` once a step, in
double precision.
"""

from __future__ import annotations

import math
import pickle
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import gymnasium as gym
import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.vec_env import DummyVecEnv

from sb3_pg import REINFORCE
from sb3_pg.common.base_algorithm import PolicyGradientAlgorithm
from sb3_pg.data.batch import EpisodeBatch

Algorithm = TypeVar("Algorithm", bound=PolicyGradientAlgorithm)
Rows = list[list[float]]
"""A number for each step of each episode."""

# --- the literal formulas -------------------------------------------------------------------------------------------


def literal_returns(kind: str, rewards: Rows, last_values: Sequence[float], gamma: float) -> Rows:
    """``reward_to_go`` or ``total`` of each episode, where ``last_values`` is what follows its last step."""

    def to_go(r: list[float], t: int, last: float) -> float:
        return sum(gamma ** (k - t) * r[k] for k in range(t, len(r))) + gamma ** (len(r) - t) * last

    pairs = list(zip(rewards, last_values, strict=True))
    if kind == "total":
        return [[to_go(r, 0, last)] * len(r) for r, last in pairs]
    assert kind == "reward_to_go"
    return [[to_go(r, t, last) for t in range(len(r))] for r, last in pairs]


def literal_gae(rewards: Rows, values: Rows, last_values: Sequence[float], gamma: float, gae_lambda: float) -> Rows:
    """Generalised advantages: a double loop over the temporal differences."""
    advantages = []
    for r, v, last in zip(rewards, values, last_values, strict=True):
        following = [*v[1:], last]
        delta = [r[t] + gamma * following[t] - v[t] for t in range(len(r))]
        advantages.append(
            [sum((gamma * gae_lambda) ** (k - t) * delta[k] for k in range(t, len(r))) for t in range(len(r))]
        )
    return advantages


def literal_baseline(name: str, returns: Rows, first_steps: Sequence[int], values: Rows) -> Rows:
    """The baseline of each step. ``first_steps`` is the t of each episode's first row, 0 for whole episodes."""
    own = [g[0] for g in returns]
    n = len(own)

    def at_step(i: int, t: int, without: int | None) -> float:
        step = first_steps[i] + t
        alive = [
            g[step - first]
            for j, (g, first) in enumerate(zip(returns, first_steps, strict=True))
            if j != without and 0 <= step - first < len(g)
        ]
        return sum(alive) / len(alive) if alive else 0.0

    formulas: dict[str, Callable[[int, int], float]] = {
        "none": lambda i, t: 0.0,
        "value": lambda i, t: values[i][t],
        "batch_mean": lambda i, t: sum(own) / n,
        "leave_one_out": lambda i, t: sum(own[j] for j in range(n) if j != i) / (n - 1) if n > 1 else 0.0,
        "time_mean": lambda i, t: at_step(i, t, without=None),
        "time_leave_one_out": lambda i, t: at_step(i, t, without=i),
    }
    return [[formulas[name](i, t) for t in range(len(g))] for i, g in enumerate(returns)]


def callable_baseline(batch: EpisodeBatch) -> th.Tensor:
    """A baseline of the user's, of the step alone, so that its value does not depend on the order of the episodes."""
    return 0.5 - 0.25 * batch.episodes.step.float()


# --- recording ------------------------------------------------------------------------------------------------------


@dataclass
class Step:
    """A step as an environment saw it.

    :param tick: steps that the environment has made before, over all episodes
    :param iteration: the rollout it belongs to
    """

    observation: Any
    action: np.ndarray
    reward: float
    next_observation: Any
    tick: int
    iteration: int


@dataclass
class Episode:
    """What an environment played from one reset to the next."""

    env: int
    steps: list[Step] = field(default_factory=list)
    terminated: bool = False
    truncated: bool = False

    @property
    def ended(self) -> bool:
        """Whether the environment said so; otherwise it is still going on, or was reset from outside."""
        return self.terminated or self.truncated


@dataclass(frozen=True)
class GradientStep:
    """A step of the policy's optimizer.

    :param policy: before the step, in double precision; None where policies are not kept
    :param gradient: what the optimizer was given, flat
    :param kl_coef: that the algorithm had at that time, None if it has no such thing
    """

    iteration: int
    policy: ActorCriticPolicy | None
    gradient: th.Tensor
    kl_coef: float | None


@dataclass
class Tape:
    """What all environments of a run played, and the policies that played it.

    :param episodes: in the order of their beginning
    :param sampled: per step of the vectorised environment the actions that the policy drew, ``(n_envs, ...)``
    :param policies: per iteration a copy of the policy in double precision
    :param gradient_steps: in the order of time
    :param buffer_rewards: per iteration the rewards in the algorithm's buffer, ``(n_steps, n_envs)``
    :param log_probs: what :func:`log_prob_of` has evaluated so far
    """

    iteration: int = -1
    episodes: list[Episode] = field(default_factory=list)
    sampled: list[np.ndarray] = field(default_factory=list)
    policies: list[ActorCriticPolicy] = field(default_factory=list)
    gradient_steps: list[GradientStep] = field(default_factory=list)
    buffer_rewards: list[np.ndarray] = field(default_factory=list)
    log_probs: dict[tuple[int, bytes], float] = field(default_factory=dict)

    @property
    def gradients(self) -> dict[int, th.Tensor]:
        """Per iteration that made an update its gradient, of an algorithm that takes one step an iteration."""
        gradients = {one.iteration: one.gradient for one in self.gradient_steps}
        assert len(gradients) == len(self.gradient_steps), "more than one step in an iteration"
        return gradients

    def steps(self) -> Iterator[tuple[Episode, Step]]:
        """All steps, with the episode that each belongs to."""
        return ((episode, step) for episode in self.episodes for step in episode.steps)


class Recorder(gym.Wrapper[Any, Any, Any, Any]):
    """Writes everything that its environment plays on a tape."""

    def __init__(self, env: gym.Env[Any, Any], tape: Tape, index: int) -> None:
        super().__init__(env)
        self.tape, self.index, self.tick = tape, index, 0
        self._observation: Any = None

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        self._observation, info = self.env.reset(**kwargs)
        self.tape.episodes.append(Episode(self.index))
        self._episode = self.tape.episodes[-1]
        return self._observation, info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        self._episode.steps.append(
            Step(self._observation, np.array(action), float(reward), observation, self.tick, self.tape.iteration)
        )
        self._episode.terminated, self._episode.truncated = terminated, truncated
        self._observation = observation
        self.tick += 1
        return observation, reward, terminated, truncated, info


class _IterationCallback(BaseCallback):
    """Counts rollouts on the tape, keeps the policy of each, and ends the training after ``n_iterations``."""

    def __init__(self, tape: Tape, n_iterations: int, keep_policies: bool) -> None:
        super().__init__()
        self.tape, self.n_iterations, self.keep_policies = tape, n_iterations, keep_policies

    def _on_rollout_start(self) -> None:
        self.tape.iteration += 1
        if self.keep_policies:
            self.tape.policies.append(double_precision(self.model.policy))  # type: ignore[arg-type]

    def _on_step(self) -> bool:
        return self.tape.iteration < self.n_iterations

    def _on_rollout_end(self) -> None:
        buffer = self.locals["rollout_buffer"]
        self.tape.buffer_rewards.append(buffer.rewards[: buffer.pos].copy())


def double_precision(policy: ActorCriticPolicy) -> ActorCriticPolicy:
    """A copy of a policy in float64 (SB3 turns every observation into float32, so they are turned back behind it)."""
    copy: ActorCriticPolicy = type(policy)(**policy._get_constructor_parameters())
    copy.load_state_dict(policy.state_dict())
    copy = copy.double()
    copy.set_training_mode(False)
    copy.features_extractor.register_forward_hook(lambda module, arguments, output: output.double())
    return copy


def record(
    make_env: Callable[[], gym.Env[Any, Any]],
    n_envs: int = 1,
    n_iterations: int = 3,
    *,
    algorithm: type[Algorithm] = REINFORCE,  # type: ignore[assignment]
    keep_policies: bool = True,
    prepare: Callable[[Algorithm], None] = lambda model: None,
    **arguments: Any,
) -> tuple[Algorithm, Tape]:
    """Let an algorithm learn for some iterations, with plain gradient descent, and record it.

    :param prepare: is given the model before it learns
    :param arguments: of the algorithm
    """
    tape = Tape()
    env = DummyVecEnv([lambda i=i: Recorder(make_env(), tape, i) for i in range(n_envs)])  # type: ignore[misc]
    policy_kwargs = {"optimizer_class": th.optim.SGD} | arguments.pop("policy_kwargs", {"net_arch": []})
    defaults: dict[str, Any] = {"policy": "MlpPolicy", "seed": 0, "device": "cpu"}
    defaults |= {"max_grad_norm": None, "normalize_advantage": False}
    model = algorithm(env=env, policy_kwargs=policy_kwargs, **(defaults | arguments))
    prepare(model)
    model.policy.register_forward_hook(lambda module, args, output: tape.sampled.append(output[0].cpu().numpy()))
    step = model.policy.optimizer.step

    def note_and_step(*args: Any, **kwargs: Any) -> Any:
        with th.random.fork_rng(devices=[]):  # the copy is initialised at random first
            policy = double_precision(model.policy) if keep_policies else None
        kl_coef = getattr(model, "kl_coef", None)
        tape.gradient_steps.append(GradientStep(tape.iteration, policy, flat_gradient(model.policy), kl_coef))
        return step(*args, **kwargs)

    model.policy.optimizer.step = note_and_step  # type: ignore[method-assign]
    model.learn(10**9, callback=_IterationCallback(tape, n_iterations, keep_policies))
    return model, tape


def flat_gradient(policy: ActorCriticPolicy) -> th.Tensor:
    """The gradients of all parameters in one vector, 0 for those that are none of the optimizer's or that have none."""
    handed = {parameter for group in policy.optimizer.param_groups for parameter in group["params"]}
    gradients = [p.grad if p in handed else None for p in policy.parameters()]
    pairs = zip(policy.parameters(), gradients, strict=True)
    return th.cat([(th.zeros_like(p) if gradient is None else gradient.clone()).flatten() for p, gradient in pairs])


# --- the reference gradient -----------------------------------------------------------------------------------------


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


def log_prob_of(tape: Tape, policy: ActorCriticPolicy, piece: Piece, step: Step) -> float:
    """log pi(a|s) of a step under one of the tape's policies, in double precision."""
    action = drawn_action(tape, piece, step)
    key = (id(policy), pickle.dumps((step.observation, action)))
    if key not in tape.log_probs:
        with th.no_grad():
            tape.log_probs[key] = evaluate(policy, step.observation, action)[1].item()
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
    to_go = literal_returns("reward_to_go", rewards, last_values, model.gamma)
    if model.returns == "gae":
        advantages = literal_gae(rewards, values, last_values, model.gamma, model.gae_lambda)
        returns = [[a + v for a, v in zip(*rows, strict=True)] for rows in zip(advantages, values, strict=True)]
    else:
        returns = literal_returns(model.returns, rewards, last_values, model.gamma)
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
    return literal_baseline(model.baseline, played.returns, [piece.first for piece in pieces], values)


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
    parts = th.autograd.grad(scalar, parameters, allow_unused=True, retain_graph=True)
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
            lambda row, log_prob, weights=weights: weights[row] * log_prob,
            divisors[iteration],
        )
    return gradients


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
    for row, (piece, step, target) in enumerate(steps):
        value, log_prob, entropy = evaluate(policy, step.observation, drawn_action(tape, piece, step))
        terms.append(-gradient_in(policy, surrogate(row, log_prob)) / divisor)
        if model.ent_coef:
            terms.append(-model.ent_coef * gradient_in(policy, -log_prob if entropy is None else entropy) / divisor)
        if model.uses_critic and model.value_optimizer is None:
            terms.append(model.vf_coef * gradient_in(policy, (value - target) ** 2) / n_rows)
        if penalty is not None:
            terms.append(gradient_in(policy, penalty(step)) / n_rows)
    total = th.zeros_like(terms[0])
    for term in terms:
        total += term
    return Reference(total, float(sum(term.norm() for term in terms)))


# --- environments ---------------------------------------------------------------------------------------------------


class RandomEnv(gym.Env[Any, np.ndarray]):
    """Random observations, rewards that depend on both, and episodes of random length: 1 to ``horizon`` steps.

    :param end_probability: that a step ends the episode; the horizon truncates it
    """

    def __init__(
        self,
        action_space: spaces.Space[Any],
        observation_space: spaces.Space[Any],
        horizon: int,
        end_probability: float,
    ) -> None:
        self.action_space, self.observation_space = action_space, observation_space
        self.horizon, self.end_probability = horizon, end_probability

    def _observe(self) -> Any:
        # Not observation_space.sample(): that has a generator of its own
        draw = self.np_random

        def of(space: spaces.Space[Any]) -> Any:
            if isinstance(space, spaces.Discrete):
                return int(draw.integers(space.n))
            return draw.normal(size=space.shape).clip(-2, 2).astype(np.float32)

        if isinstance(self.observation_space, spaces.Dict):
            return {key: of(space) for key, space in self.observation_space.items()}
        return of(self.observation_space)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed, options=options)
        self._t = 0
        return self._observe(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self._t += 1
        reward = float(np.tanh(np.sum(action)) + self.np_random.normal())
        terminated = bool(self.np_random.random() < self.end_probability)
        return self._observe(), reward, terminated, self._t >= self.horizon and not terminated, {}
