"""What a run did, noted from outside.

:func:`record` keeps a tape of every step as the environments saw it, of the policies and of the gradients;
:class:`Batches` keeps what the algorithm made of them, and :func:`log_to_memory` what it logged. Nothing of the tape is
taken from the package's buffers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import gymnasium as gym
import numpy as np
import torch as th
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.logger import KVWriter, Logger
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.vec_env import DummyVecEnv

from sb3_pg.common.base_algorithm import PolicyGradientAlgorithm
from sb3_pg.data.batch import EpisodeBatch

Algorithm = TypeVar("Algorithm", bound=PolicyGradientAlgorithm)


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
    :param seen_and_done: what :func:`seen_and_done` has found so far, by the identity of the step
    """

    iteration: int = -1
    episodes: list[Episode] = field(default_factory=list)
    sampled: list[np.ndarray] = field(default_factory=list)
    policies: list[ActorCriticPolicy] = field(default_factory=list)
    gradient_steps: list[GradientStep] = field(default_factory=list)
    buffer_rewards: list[np.ndarray] = field(default_factory=list)
    log_probs: dict[tuple[int, bytes], float] = field(default_factory=dict)
    seen_and_done: dict[int, bytes] = field(default_factory=dict)

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

    model: PolicyGradientAlgorithm

    def __init__(self, tape: Tape, n_iterations: int, keep_policies: bool) -> None:
        super().__init__()
        self.tape, self.n_iterations, self.keep_policies = tape, n_iterations, keep_policies

    def _on_rollout_start(self) -> None:
        self.tape.iteration += 1
        if self.keep_policies:
            self.tape.policies.append(double_precision(self.model.policy))

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
    algorithm: type[Algorithm],
    keep_policies: bool = True,
    prepare: Callable[[Algorithm], object] = lambda model: None,
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


class Negate(th.optim.SGD):
    """Instead of a gradient step: what the policy preferred becomes what it avoids."""

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        for group in self.param_groups:
            for parameter in group["params"]:
                parameter.data.neg_()


def flat_gradient(policy: ActorCriticPolicy) -> th.Tensor:
    """The gradients of all parameters in one vector, 0 for those that are none of the optimizer's or that have none."""
    handed = {parameter for group in policy.optimizer.param_groups for parameter in group["params"]}
    gradients = [p.grad if p in handed else None for p in policy.parameters()]
    pairs = zip(policy.parameters(), gradients, strict=True)
    return th.cat([(th.zeros_like(p) if gradient is None else gradient.clone()).flatten() for p, gradient in pairs])


class Batches(BaseCallback):
    """Keeps the batch of every rollout (or None), the rewards, and which environments began it with a new episode."""

    model: PolicyGradientAlgorithm

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[EpisodeBatch | None] = []
        self.rewards: list[np.ndarray] = []
        self.starts: list[np.ndarray] = []

    def _on_step(self) -> bool:
        self.rewards.append(self.locals["rewards"].copy())
        return True

    def _on_rollout_end(self) -> None:
        self.batches.append(self.model.rollout_buffer.batch)
        self.starts.append(self.model.rollout_buffer.episode_starts[0].astype(bool))

    @property
    def updates(self) -> list[EpisodeBatch]:
        """The batches there were."""
        return [batch for batch in self.batches if batch is not None]


class StopAfter(BaseCallback):
    """Ends the training in its ``n``-th step."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.n = n

    def _on_step(self) -> bool:
        return self.n_calls < self.n


class Memory(KVWriter):
    """A logger's output that keeps what it is given, one dictionary a dump."""

    def __init__(self) -> None:
        self.dumps: list[dict[str, Any]] = []

    def write(self, key_values: dict[str, Any], key_excluded: dict[str, tuple[str, ...]], step: int = 0) -> None:
        self.dumps.append(dict(key_values))

    def close(self) -> None:
        """Nothing to close."""


def log_to_memory(model: PolicyGradientAlgorithm) -> list[dict[str, Any]]:
    """Let the model log into a list, which fills while it learns."""
    memory = Memory()
    model.set_logger(Logger(folder=None, output_formats=[memory]))
    return memory.dumps


def episodes_of(batch: EpisodeBatch) -> list[np.ndarray]:
    """The rows ``(index, episode, step)`` of each episode of a batch from :class:`DiaryEnv`."""
    where = batch.observations["where"] if isinstance(batch.observations, dict) else batch.observations
    return [where[rows].numpy() for rows in batch.each_episode()]


def assert_whole(batch: EpisodeBatch, lengths: Sequence[int]) -> None:
    """Every episode of the batch is one episode of one environment, from its first step to its last.

    :param lengths: as given to every :class:`DiaryEnv`
    """
    for rows in episodes_of(batch):
        index, episode, _ = rows[0].astype(int)
        length = lengths[min(episode, len(lengths) - 1)]
        expected = [[index, episode, t] for t in range(length)]
        assert rows.tolist() == expected, f"spliced or cut: {rows.tolist()}, expected {expected}"
