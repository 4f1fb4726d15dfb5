"""An independent record of what was played, and the literal formulas to compare with.

Nothing here is taken from the package's buffers or estimators: :class:`Recorder` notes each step at the environment,
returns are O(T^2) loops over Python floats, and :func:`literal_gradients` calls ``autograd.grad`` once a step, in
double precision.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import gymnasium as gym
import numpy as np
import torch as th
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.vec_env import DummyVecEnv

from sb3_pg import REINFORCE
from sb3_pg.common.type_aliases import EpisodeBatch

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


@dataclass
class Tape:
    """What all environments of a run played, and the policies that played it.

    :param episodes: in the order of their beginning
    :param sampled: per step of the vectorised environment the actions that the policy drew, ``(n_envs, ...)``
    :param policies: per iteration a copy of the policy in double precision
    :param gradients: per iteration that made an update the gradient that the optimizer was given, flat
    :param buffer_rewards: per iteration the rewards in the algorithm's buffer, ``(n_steps, n_envs)``
    """

    iteration: int = -1
    episodes: list[Episode] = field(default_factory=list)
    sampled: list[np.ndarray] = field(default_factory=list)
    policies: list[ActorCriticPolicy] = field(default_factory=list)
    gradients: dict[int, th.Tensor] = field(default_factory=dict)
    buffer_rewards: list[np.ndarray] = field(default_factory=list)

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
    keep_policies: bool = True,
    prepare: Callable[[REINFORCE], None] = lambda model: None,
    **arguments: Any,
) -> tuple[REINFORCE, Tape]:
    """Let REINFORCE learn for some iterations, with plain gradient descent, and record it.

    :param prepare: is given the model before it learns
    :param arguments: of REINFORCE
    """
    tape = Tape()
    env = DummyVecEnv([lambda i=i: Recorder(make_env(), tape, i) for i in range(n_envs)])  # type: ignore[misc]
    policy_kwargs = {"optimizer_class": th.optim.SGD} | arguments.pop("policy_kwargs", {"net_arch": []})
    defaults: dict[str, Any] = {"policy": "MlpPolicy", "seed": 0, "device": "cpu"}
    defaults |= {"max_grad_norm": None, "normalize_advantage": False}
    model = REINFORCE(env=env, policy_kwargs=policy_kwargs, **(defaults | arguments))
    prepare(model)
    model.policy.register_forward_hook(lambda module, args, output: tape.sampled.append(output[0].cpu().numpy()))
    step = model.policy.optimizer.step

    def note_and_step(*args: Any, **kwargs: Any) -> Any:
        assert tape.iteration not in tape.gradients, "more than one step in an iteration"
        tape.gradients[tape.iteration] = flat_gradient(model.policy)
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


def pieces_of_learn(model: REINFORCE, tape: Tape) -> dict[int, list[Piece]]:
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


@dataclass(frozen=True)
class Reference:
    """A literal gradient, and the size of what was added up.

    :param gradient: ``(n_parameters,)``
    :param size: sum of the norms of its terms: its rounding error in single precision is proportional to that
    """

    gradient: th.Tensor
    size: float


def literal_gradients(model: REINFORCE, tape: Tape, past_weight: float = 0.1) -> dict[int, Reference]:
    """The gradient that each iteration should have handed to its optimizer: g += weight * grad(log_prob), step by step.

    :param past_weight: share of a new batch in the running mean of episode lengths
    """
    gradients, mean_length = {}, None
    for iteration, pieces in pieces_of_learn(model, tape).items():
        lengths = [len(piece.steps) for piece in pieces]
        length = sum(lengths) / len(lengths)
        past = length if mean_length is None else mean_length
        mean_length = past + past_weight * (length - past)
        divisor = {
            "step": sum(lengths),
            "episode": len(lengths),
            "mean_length": len(lengths) * past,
        }[model.loss_reduction]
        gradients[iteration] = _literal_gradient(model, tape, iteration, pieces, divisor)
    return gradients


def _literal_gradient(model: REINFORCE, tape: Tape, iteration: int, pieces: list[Piece], divisor: float) -> Reference:
    policy = tape.policies[iteration]
    parameters = list(policy.parameters())

    def gradient(scalar: th.Tensor) -> th.Tensor:
        parts = th.autograd.grad(scalar, parameters, allow_unused=True, retain_graph=True)
        return th.cat(
            [(th.zeros_like(p) if part is None else part).flatten() for p, part in zip(parameters, parts, strict=True)]
        )

    last_values = [_last_value(model, policy, piece) for piece in pieces]
    values = [[value_of(tape.policies[s.iteration], s.observation) for s in piece.steps] for piece in pieces]
    rewards = [[step.reward for step in piece.steps] for piece in pieces]
    returns = literal_returns(model.returns, rewards, last_values, model.gamma)
    to_go = literal_returns("reward_to_go", rewards, last_values, model.gamma)
    evaluated = [[evaluate(policy, s.observation, _drawn(tape, piece, s)) for s in piece.steps] for piece in pieces]
    scores = [[gradient(log_prob) for _, log_prob, _ in steps] for steps in evaluated]
    baseline = _baseline(model, pieces, returns, values, scores)
    advantages = [[g - b for g, b in zip(*rows, strict=True)] for rows in zip(returns, baseline, strict=True)]
    if model.normalize_advantage:
        flat = np.array([a for rows in advantages for a in rows])
        std = flat.std(ddof=1) if len(flat) > 1 else 0.0
        advantages = [[(a - flat.mean()) / (std + 1e-8) for a in rows] for rows in advantages]

    terms = []
    n_rows = sum(len(piece.steps) for piece in pieces)
    for i, piece in enumerate(pieces):
        for t, step in enumerate(piece.steps):
            value, log_prob, entropy = evaluated[i][t]
            weight = advantages[i][t] * min(carried_ratio(tape, iteration, piece, step), 10.0)
            if model.discount_gradient:
                weight *= model.gamma ** (piece.first + t)
            terms.append(-weight * scores[i][t] / divisor)
            if model.ent_coef:
                terms.append(-model.ent_coef * gradient(-log_prob if entropy is None else entropy) / divisor)
            if model.uses_critic and model.value_optimizer is None:
                terms.append(model.vf_coef * gradient((value - to_go[i][t]) ** 2) / n_rows)
    total = th.zeros_like(terms[0])
    for term in terms:
        total += term
    return Reference(total, float(sum(term.norm() for term in terms)))


def _drawn(tape: Tape, piece: Piece, step: Step) -> np.ndarray:
    """The action that the policy drew; the environment got it clipped, if it is one of a bounded Box."""
    drawn: np.ndarray = tape.sampled[step.tick][piece.episode.env]
    return drawn


def _last_value(model: REINFORCE, policy: ActorCriticPolicy, piece: Piece) -> float:
    """What follows the last step of a piece."""
    if not piece.whole:
        is_bootstrapped = model.incomplete_episodes == "bootstrap"
    else:
        is_bootstrapped = piece.episode.truncated and model.bootstrap_truncated
    return value_of(policy, piece.steps[-1].next_observation) if is_bootstrapped else 0.0


def _baseline(
    model: REINFORCE, pieces: list[Piece], returns: Rows, values: Rows, scores: list[list[th.Tensor]]
) -> Rows:
    """The baseline of each step, with those that need more than the returns."""
    if callable(model.baseline):
        return [[0.5 - 0.25 * (piece.first + t) for t in range(len(piece.steps))] for piece in pieces]
    if model.baseline == "optimal":
        norms = [float(th.stack(rows).sum(dim=0).square().sum()) for rows in scores]
        constant = sum(norm * g[0] for norm, g in zip(norms, returns, strict=True)) / sum(norms)
        return [[constant] * len(g) for g in returns]
    return literal_baseline(model.baseline, returns, [piece.first for piece in pieces], values)


def carried_ratio(tape: Tape, iteration: int, piece: Piece, step: Step) -> float:
    """pi_now / pi_then of a step: 1 if this iteration sampled it."""
    drawn = _drawn(tape, piece, step)
    _, now, _ = evaluate(tape.policies[iteration], step.observation, drawn)
    _, then, _ = evaluate(tape.policies[step.iteration], step.observation, drawn)
    return float((now - then).detach().exp())


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
