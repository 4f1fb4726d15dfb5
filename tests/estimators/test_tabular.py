"""The oracle itself: enumeration, dynamic programming and the environment describe the same MDP."""

from __future__ import annotations

import pytest
import torch as th
from gymnasium.utils.env_checker import check_env

from tests.helpers.tabular import HorizonEnd, TabularEnv, TabularMDP, long_episodes_pay, random_mdp

MDPS = {
    "random": random_mdp(0),
    "one start": random_mdp(1, n_states=2, n_starts=1),
    "three actions": random_mdp(2, n_states=2, n_actions=3, horizon=2),
    "long episodes pay": long_episodes_pay(horizon=4),
}


@pytest.mark.parametrize("mdp", MDPS.values(), ids=MDPS.keys())
@pytest.mark.parametrize("gamma", [1.0, 0.8])
def test_enumeration_agrees_with_dynamic_programming(mdp: TabularMDP, gamma: float) -> None:
    """Sum of P is 1; sum of P * return is J; its autodiff gradient is grad J; sum of P over long episodes is q_t."""
    theta = mdp.random_logits(0).requires_grad_()
    trajectories = mdp.trajectories()
    probability = th.stack([mdp.probability(trajectory, theta) for trajectory in trajectories])
    total = probability.new_tensor([sum(gamma**t * r for t, r in enumerate(one.rewards)) for one in trajectories])
    objective = probability @ total
    th.testing.assert_close(probability.sum(), th.ones((), dtype=th.float64), rtol=0, atol=1e-12)
    th.testing.assert_close(objective, mdp.objective(theta, gamma), rtol=0, atol=1e-12)
    (gradient,) = th.autograd.grad(objective, theta)
    th.testing.assert_close(gradient, mdp.objective_gradient(theta, gamma), rtol=0, atol=1e-12)
    lengths = th.tensor([len(one) for one in trajectories])
    alive = th.stack([probability[lengths > t].sum() for t in range(mdp.horizon)])
    th.testing.assert_close(alive, mdp.alive(theta), rtol=0, atol=1e-12)


def test_enumeration_is_complete_and_without_repetition() -> None:
    """2 states, 2 actions, 3 steps, any start: 4 + 16 + 64 = 84 different trajectories."""
    trajectories = random_mdp(0, n_states=2).trajectories()
    assert len(trajectories) == len({(one.states, one.actions) for one in trajectories}) == 84


@pytest.mark.parametrize("horizon_end", ["terminated", "truncated"])
def test_environment_plays_the_mdp(horizon_end: HorizonEnd) -> None:
    """Mean return and length of 4,000 episodes are within 4 standard errors of the exact ones; the clock's end is
    reported as asked, and every episode that it did not end is terminated."""
    mdp = long_episodes_pay(horizon=5)
    theta = mdp.random_logits(1)
    env = TabularEnv(mdp, horizon_end)
    policy, draw = theta.softmax(-1), th.Generator().manual_seed(0)
    state, _ = env.reset(seed=0)
    returns: list[float] = []
    lengths: list[float] = []
    total, length = 0.0, 0
    while len(returns) < 4000:
        action = int(th.rand((), generator=draw) > policy[state, 0])
        state, reward, terminated, truncated, _ = env.step(action)
        total, length = total + reward, length + 1
        assert not (truncated and (terminated or horizon_end == "terminated" or length < 5))
        if terminated or truncated:
            returns.append(total)
            lengths.append(length)
            total, length, (state, _) = 0.0, 0, env.reset()
    for sample, exact in [(returns, mdp.objective(theta, 1.0)), (lengths, mdp.alive(theta).sum())]:
        values = th.tensor(sample, dtype=th.float64)
        assert abs(values.mean() - exact) < 4 * values.std() / len(values) ** 0.5


def test_environment_follows_gymnasium() -> None:
    check_env(TabularEnv(random_mdp(0)), skip_render_check=True)


def test_environment_refuses_an_unknown_horizon_end() -> None:
    with pytest.raises(ValueError, match="horizon_end must be 'terminated' or 'truncated', got 'cut'"):
        TabularEnv(random_mdp(0), "cut")  # type: ignore[arg-type]


def test_long_episodes_pay_more() -> None:
    """About 3 steps on average under the uniform policy, and the mean reward grows with the step."""
    mdp = long_episodes_pay()
    uniform = th.zeros(mdp.n_states, mdp.n_actions, dtype=th.float64)
    assert float(mdp.alive(uniform).sum()) == pytest.approx(3.0, abs=0.1)
    occupancy = mdp.occupancy(uniform)
    mean_reward = (occupancy * mdp.reward.mean(-1)).sum(-1) / occupancy.sum(-1)
    assert bool((mean_reward.diff() > 0).all())
