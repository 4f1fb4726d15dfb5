"""A finite MDP small enough to know everything about: all its trajectories, its exact objective and gradient.

Episodes are of random, unequal length: an action may end the episode, and a clock ends it after ``horizon`` steps.
The policy is a softmax over a table of logits, ``theta`` ``(n_states, n_actions)`` in float64; it does not see the
clock. Exact quantities come from dynamic programming, and from an enumeration of the trajectories: the two share no
code, and ``tests/estimators/test_tabular.py`` shows that they agree.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

import gymnasium as gym
import numpy as np
import torch as th

HorizonEnd = Literal["terminated", "truncated"]


@dataclass(frozen=True)
class Trajectory:
    """A complete episode.

    :param dynamics_probability: the environment's share of its probability: start, terminations and transitions.
    """

    states: tuple[int, ...]
    actions: tuple[int, ...]
    rewards: tuple[float, ...]
    dynamics_probability: float

    def __len__(self) -> int:
        return len(self.states)


@dataclass(frozen=True, eq=False)
class TabularMDP:
    """A finite MDP with an episode cap.

    :param initial: ``(S,)`` probability of starting in s.
    :param transition: ``(S, A, S)`` probability of s' after (s, a), if the episode goes on.
    :param termination: ``(S, A)`` probability that the episode ends after (s, a), once its reward is paid.
    :param reward: ``(S, A)``
    :param horizon: the number of steps after which an episode ends anyhow.
    """

    initial: th.Tensor
    transition: th.Tensor
    termination: th.Tensor
    reward: th.Tensor
    horizon: int

    @property
    def n_states(self) -> int:
        return self.reward.shape[0]

    @property
    def n_actions(self) -> int:
        return self.reward.shape[1]

    def random_logits(self, seed: int) -> th.Tensor:
        """A policy that prefers some actions, without being sure: standard normal logits, ``(S, A)``."""
        return th.as_tensor(np.random.default_rng(seed).normal(size=(self.n_states, self.n_actions)))

    # Enumeration

    def trajectories(self) -> list[Trajectory]:
        """Every complete episode that the dynamics allow."""
        starts = ((s, float(p)) for s, p in enumerate(self.initial) if p > 0)
        return [trajectory for s, p in starts for trajectory in self._continuations((), (), (), s, p)]

    def _continuations(
        self, states: tuple[int, ...], actions: tuple[int, ...], rewards: tuple[float, ...], s: int, p: float
    ) -> Iterator[Trajectory]:
        """Every way an episode that has come to state s with probability p can go on."""
        for a in range(self.n_actions):
            past = ((*states, s), (*actions, a), (*rewards, float(self.reward[s, a])))
            end = 1.0 if len(states) + 1 == self.horizon else float(self.termination[s, a])
            if end > 0:
                yield Trajectory(*past, p * end)
            for following, q in enumerate(self.transition[s, a].tolist()):
                if end < 1 and q > 0:
                    yield from self._continuations(*past, following, p * (1 - end) * q)

    def probability(self, trajectory: Trajectory, theta: th.Tensor) -> th.Tensor:
        """P(trajectory) under the policy of logits theta, differentiable in theta."""
        log_policy = theta.log_softmax(dim=-1)[list(trajectory.states), list(trajectory.actions)]
        return trajectory.dynamics_probability * log_policy.sum().exp()

    # Dynamic programming: t counts from 0, and V_t is 0 once the clock has run out

    def action_values(self, theta: th.Tensor, gamma: float) -> th.Tensor:
        """Q_t(s, a), ``(horizon, S, A)``: differentiable in theta."""
        policy, value, values = theta.softmax(dim=-1), theta.new_zeros(self.n_states), []
        for _ in range(self.horizon):
            values.append(self.reward + gamma * (1 - self.termination) * (self.transition @ value))
            value = (policy * values[-1]).sum(dim=-1)
        return th.stack(values[::-1])

    def state_values(self, theta: th.Tensor, gamma: float) -> th.Tensor:
        """V_t(s), ``(horizon, S)``: differentiable in theta."""
        return (theta.softmax(dim=-1) * self.action_values(theta, gamma)).sum(dim=-1)

    def occupancy(self, theta: th.Tensor) -> th.Tensor:
        """P(alive at t and in s), ``(horizon, S)``: differentiable in theta."""
        policy, occupancy = theta.softmax(dim=-1), [self.initial]
        for _ in range(self.horizon - 1):
            survivors = occupancy[-1][:, None] * policy * (1 - self.termination)
            occupancy.append(th.einsum("sa,sat->t", survivors, self.transition))
        return th.stack(occupancy)

    def alive(self, theta: th.Tensor) -> th.Tensor:
        """q_t = P(the episode has a step t), ``(horizon,)``; their sum is the mean length of an episode."""
        return self.occupancy(theta).sum(dim=-1)

    def objective(self, theta: th.Tensor, gamma: float) -> th.Tensor:
        """J(theta) = E[sum_t gamma^t r_t]: differentiable in theta."""
        return self.initial @ self.state_values(theta, gamma)[0]

    def objective_gradient(self, theta: th.Tensor, gamma: float) -> th.Tensor:
        """grad J(theta), ``(S, A)``."""
        theta = theta.detach().requires_grad_()
        return th.autograd.grad(self.objective(theta, gamma), theta)[0]


def random_mdp(
    seed: int, n_states: int = 3, n_actions: int = 2, horizon: int = 3, n_starts: int | None = None
) -> TabularMDP:
    """An MDP drawn at random, whose episodes end after each step with a probability of 0.2 to 0.6.

    :param n_starts: number of states in which an episode may start; all of them if None.
    """
    rng = np.random.default_rng(seed)
    start_weights = np.where(np.arange(n_states) < (n_starts or n_states), rng.uniform(0.2, 1.0, n_states), 0.0)
    return TabularMDP(
        initial=th.as_tensor(start_weights / start_weights.sum()),
        transition=th.as_tensor(rng.dirichlet(np.ones(n_states), size=(n_states, n_actions))),
        termination=th.as_tensor(rng.uniform(0.2, 0.6, size=(n_states, n_actions))),
        reward=th.as_tensor(rng.normal(size=(n_states, n_actions))),
        horizon=horizon,
    )


def long_episodes_pay(horizon: int = 8) -> TabularMDP:
    """An MDP in which long episodes pay more: about 3 steps on average, each worth more than the one before it.

    The state is a level that tends to rise and that is paid at every step. Action 0 goes on (the episode ends with
    probability 0.2); action 1 takes 0.5 more at once and risks the rest (0.45). Whoever loses long episodes, or counts
    them less, gets the direction of the gradient wrong: the statistical tests of the collection loop build on it.
    """
    rises = th.tensor([[0.3, 0.7, 0.0], [0.0, 0.3, 0.7], [0.0, 0.0, 1.0]], dtype=th.float64)
    return TabularMDP(
        initial=th.tensor([0.8, 0.2, 0.0], dtype=th.float64),
        transition=th.stack([rises, rises], dim=1),
        termination=th.tensor([[0.2, 0.45]] * 3, dtype=th.float64),
        reward=th.tensor([[0.0, 0.5], [1.0, 1.5], [2.0, 2.5]], dtype=th.float64),
        horizon=horizon,
    )


class TabularEnv(gym.Env[Any, Any]):
    """Plays a :class:`TabularMDP`; the observation is the state.

    :param horizon_end: whether the clock reports that the episode terminated (a finite-horizon task) or that it was
        truncated. An episode that the MDP itself ends is always terminated.
    """

    def __init__(self, mdp: TabularMDP, horizon_end: HorizonEnd = "terminated") -> None:
        if horizon_end not in ("terminated", "truncated"):
            raise ValueError(f"horizon_end must be 'terminated' or 'truncated', got {horizon_end!r}")
        self.mdp, self.horizon_end = mdp, horizon_end
        self.observation_space = gym.spaces.Discrete(mdp.n_states)
        self.action_space = gym.spaces.Discrete(mdp.n_actions)
        self._initial = mdp.initial.cumsum(-1).numpy()
        self._transition = mdp.transition.cumsum(-1).numpy()
        self._termination, self._reward = mdp.termination.numpy(), mdp.reward.numpy()
        self._state, self._t = 0, 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[int, dict[str, Any]]:
        super().reset(seed=seed, options=options)
        self._state, self._t = self._draw(self._initial), 0
        return self._state, {}

    def step(self, action: int) -> tuple[int, float, bool, bool, dict[str, Any]]:
        here = (self._state, int(action))
        ended = bool(self.np_random.random() < self._termination[here])
        self._t += 1
        out_of_time = self._t >= self.mdp.horizon
        self._state = self._draw(self._transition[here])
        terminated = ended or (out_of_time and self.horizon_end == "terminated")
        return self._state, float(self._reward[here]), terminated, out_of_time and not terminated, {}

    def _draw(self, cumulative: np.ndarray) -> int:
        """A state, given the cumulative probabilities (whose last one may be a rounding error away from 1)."""
        return min(int(cumulative.searchsorted(self.np_random.random(), side="right")), len(cumulative) - 1)


MDP = long_episodes_pay()


def tabular_env() -> TabularEnv:
    """An environment in which long episodes pay, with a time limit."""
    return TabularEnv(MDP, horizon_end="truncated")
