"""With frozen parameters the mean of REINFORCE's gradients is the exact policy gradient, in direction and in scale.

The environment is the one whose long episodes pay more, so that whoever loses episodes, or parts of them, gets it
wrong: what an iteration does with the episodes that its edge cuts is all that is tested here. (That each gradient is
the right sum over the episodes it uses is shown exactly, in ``test_gradient_of_learn.py``.)

The policy is linear in the one-hot state, with parameters W and b: 8 gradient components, of which the 4 of action 1
are the negatives of those of action 0. The test asks for |z| < 4.9 in each. It is passed twice, so that its false alarm
rate is 2 * 4 * P(|z| > 4.9) = 8e-6 (once and for all: the seeds are fixed). Its power: the standard error of the
largest component, 0.3, is 5 or 6 percent of it, so that an error of 0.43 of its size is found with 99 percent
probability. The errors of ``drop``, of ``truncate`` and of counting the episodes that end first are 0.9 to 1.5 of
it (the first turns the gradient around): 9 standard errors or more on less than half of the sample.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from functools import partial
from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.vec_env import DummyVecEnv

from sb3_pg import REINFORCE
from sb3_pg.data.batch import EpisodeBatch
from tests.helpers import literal
from tests.helpers.gradients import evaluate
from tests.helpers.recording import Episode, Tape, double_precision, record
from tests.helpers.tabular import TabularEnv, long_episodes_pay

MDP = long_episodes_pay()
GAMMA = 0.9
N_ENVS = 32
Z = 4.9


def uniform(model: REINFORCE) -> None:
    """Make both actions equally likely everywhere."""
    assert isinstance(model.policy.action_net.weight, th.Tensor)
    th.nn.init.zeros_(model.policy.action_net.weight)


def play(n_iterations: int, **arguments: Any) -> tuple[REINFORCE, Tape]:
    """Learn with a learning rate of 0, without a baseline, and with the discounting that makes the estimate exact."""
    model, tape = record(
        lambda: TabularEnv(MDP),
        N_ENVS,
        n_iterations,
        algorithm=REINFORCE,
        keep_policies=False,
        prepare=uniform,
        learning_rate=0.0,
        gamma=GAMMA,
        discount_gradient=True,
        baseline="none",
        loss_reduction="episode",
        seed=1,
        **arguments,
    )
    return model, tape


def exact_gradient(model: REINFORCE) -> np.ndarray:
    """Gradient of J in the parameters of the policy, by dynamic programming."""
    policy = double_precision(model.policy)
    parameters = dict(policy.named_parameters())
    assert list(parameters) == ["action_net.weight", "action_net.bias"]
    objective = MDP.objective(parameters["action_net.weight"].T + parameters["action_net.bias"], GAMMA)
    return th.cat([part.flatten() for part in th.autograd.grad(objective, list(parameters.values()))]).numpy()


def contributions(model: REINFORCE, episodes: Iterable[Episode]) -> np.ndarray:
    """``(n_episodes, n_parameters)`` sum_t gamma^t G_t grad log pi(a_t|s_t) of recorded episodes."""
    policy = double_precision(model.policy)
    scores = {}
    for state, action in np.ndindex(MDP.n_states, MDP.n_actions):
        _, log_prob, _ = evaluate(policy, state, np.array(action))
        parts = th.autograd.grad(log_prob, list(policy.parameters()))
        scores[state, action] = th.cat([part.flatten() for part in parts]).numpy()
    terms = []
    for episode in episodes:
        ((*returns,),) = literal.reward_to_go([[step.reward for step in episode.steps]], GAMMA, [0.0])
        weights = [GAMMA**t * g for t, g in enumerate(returns)]
        terms.append(sum(w * scores[s.observation, int(s.action)] for w, s in zip(weights, episode.steps, strict=True)))
    return np.array(terms)


def n_used(tape: Tape, incomplete_episodes: str) -> Counter[int]:
    """How many episodes, or pieces of episodes, each iteration uses."""
    used: Counter[int] = Counter()
    for episode in tape.episodes:
        iterations = sorted({step.iteration for step in episode.steps})
        if incomplete_episodes == "truncate":
            used.update(iterations)
        elif episode.ended and (incomplete_episodes == "carry" or len(iterations) == 1):
            used[iterations[-1]] += 1
    return used


def largest_z(estimate: np.ndarray, exact: np.ndarray, deviation: np.ndarray, n: int) -> float:
    """Largest |estimate - exact| in standard errors, where an estimate is a mean over n samples."""
    return float(np.abs((estimate - exact) / (deviation / n**0.5)).max())


def z_of_rule(n_iterations: int, incomplete_episodes: str) -> float:
    """Largest |z| of the mean contribution of an episode, where the edges of rollouts cut every third one.

    Each iteration divides by the random number N of its episodes, which biases the scale: that is undone, and the sum
    of N times the gradient over all iterations is divided by the sum of N. Whole episodes are independent, and an
    environment's number of them is a stopping time but for the last one, so that (Wald's identity) the deviation of
    a single episode gives the standard error.
    """
    model, tape = play(n_iterations, n_steps=5, incomplete_episodes=incomplete_episodes)
    used = n_used(tape, incomplete_episodes)
    assert used.keys() - {n_iterations} == tape.gradients.keys()
    total = -np.sum([used[k] * gradient.double().numpy() for k, gradient in tape.gradients.items()], axis=0)
    n = sum(used[k] for k in tape.gradients)
    deviation = contributions(model, [one for one in tape.episodes if one.ended]).std(axis=0)
    return largest_z(total / n, exact_gradient(model), deviation, n)


def test_carried_episodes_give_the_exact_gradient() -> None:
    """22,000 episodes on 32 environments."""
    assert z_of_rule(400, "carry") < Z


@pytest.mark.parametrize("incomplete_episodes", ["drop", "truncate"])
def test_losing_the_ends_of_episodes_is_noticed(incomplete_episodes: str) -> None:
    """The same test on three eighths of the sample rejects the rules that do not claim to be unbiased."""
    assert z_of_rule(150, incomplete_episodes) > Z


def test_whole_episodes_give_the_exact_gradient_and_the_first_to_end_do_not() -> None:
    """A quota of two episodes for each of 32 environments, 16,000 episodes: right. Of the same games, recorded, the 64
    episodes that ended first in each iteration: rejected, on the first 75 iterations already."""
    n_episodes = 2 * N_ENVS
    model, tape = play(250, n_steps=100, n_episodes=n_episodes)
    exact = exact_gradient(model)
    gradients = -th.stack(list(tape.gradients.values())).double().numpy()
    assert len(gradients) == 250
    assert largest_z(gradients.mean(axis=0), exact, gradients.std(axis=0), len(gradients)) < Z

    ended: dict[int, list[Episode]] = defaultdict(list)
    for episode in sorted((one for one in tape.episodes if one.ended), key=lambda one: (one.steps[-1].tick, one.env)):
        ended[episode.steps[-1].iteration].append(episode)
    first = np.array([contributions(model, ended[k][:n_episodes]).mean(axis=0) for k in range(75)])
    assert largest_z(first.mean(axis=0), exact, first.std(axis=0), len(first)) > Z


class CountingEnv(gym.Env[np.ndarray, int]):
    """Its reward is the number of the step, which is never paid twice.

    :param length: of its episodes; None: they never end
    """

    observation_space = spaces.Box(0, 1, (1,))
    action_space: spaces.Space[Any] = spaces.Discrete(2)

    def __init__(self, first: int, length: int | None) -> None:
        self.number, self.length = first, length

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[np.ndarray, dict[str, Any]]:
        super().reset(seed=seed)
        self.t = 0
        return np.zeros(1, dtype=np.float32), {}

    def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
        self.number, self.t = self.number + 1, self.t + 1
        return np.zeros(1, dtype=np.float32), float(self.number - 1), self.t == self.length, False, {}


class BatchCallback(BaseCallback):
    """Keeps the batch of every iteration that has one."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[EpisodeBatch] = []

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        batch = self.locals["rollout_buffer"].batch
        if batch is not None:
            self.batches.append(batch)


def test_every_step_of_episodes_that_never_end_is_used_once() -> None:
    """``cut_length`` ends an episode at the next edge of a rollout, as a time limit; what follows is a new episode.

    Three environments of which one never ends, one ends after more than ``cut_length`` steps and one long before:
    all their steps, but for those that still wait, are used once, in order, with t from 0 in each piece.
    """
    n_steps, cut_length, per_env = 8, 20, 1000
    firsts, lengths = [0, per_env, 2 * per_env], [None, 45, 7]
    envs: list[Callable[[], gym.Env[Any, Any]]] = [
        partial(CountingEnv, f, n) for f, n in zip(firsts, lengths, strict=True)
    ]
    callback = BatchCallback()
    n_rollouts = 40
    REINFORCE(
        "MlpPolicy",
        DummyVecEnv(envs),
        n_steps=n_steps,
        incomplete_episodes="carry",
        rollout_buffer_kwargs={"cut_length": cut_length},
        device="cpu",
    ).learn(n_rollouts * n_steps * 3, callback=callback)

    pieces: dict[int, list[tuple[list[int], bool]]] = defaultdict(list)
    for batch in callback.batches:
        for i, rows in enumerate(batch.each_episode()):
            numbers = batch.rewards[rows].int().tolist()
            assert batch.episodes.step[rows].tolist() == list(range(len(numbers)))
            assert bool(batch.truncated[i]) != bool(batch.terminated[i])
            pieces[numbers[0] // per_env].append((numbers, bool(batch.truncated[i])))
    for env, first in enumerate(firsts):
        used = [number for numbers, _ in pieces[env] for number in numbers]
        assert used == list(range(first, first + len(used)))
        assert n_rollouts * n_steps - cut_length < len(used) <= n_rollouts * n_steps
    shapes = [[(len(numbers), is_cut) for numbers, is_cut in pieces[env]] for env in range(3)]
    # 20 steps are exceeded at the edge after 24; 45 = 24 + 21, and then 3 steps are left to the next edge
    assert set(shapes[0]) == {(24, True)}
    assert shapes[1][:4] == [(24, True), (21, False), (27, True), (18, False)]
    assert set(shapes[2]) == {(7, False)}
