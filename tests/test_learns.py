"""Tasks that one idea solves. What fails on one of them has a name: the discount, the critic, the sign of the loss.

Everything runs on fixed seeds. The hyper-parameters are the ones in :data:`PROBE` and :data:`IDENTITY`: a large step,
since the tasks are small, and gamma = 0 for the identity tasks, whose reward depends on the last action alone.
"""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch as th
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.envs import (
    IdentityEnv,
    IdentityEnvBox,
    IdentityEnvMultiBinary,
    IdentityEnvMultiDiscrete,
)
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.vec_env import DummyVecEnv

from sb3_pg import REINFORCE, OffPolicyISPG, VanillaPG
from sb3_pg.common.base_algorithm import PolicyGradientAlgorithm
from sb3_pg.zoo.configs import config_path, read_configs
from tests.helpers.environments import ProbeEnv
from tests.helpers.models import (
    ESTIMATORS,
    JOINT_CRITIC,
    MONTE_CARLO,
    OWN_CRITIC,
    Algorithm,
    differences,
    every_algorithm,
    every_estimator,
    make,
    n_updates,
    snapshot,
)

pytestmark = pytest.mark.filterwarnings("error::UserWarning")


def falling(start: float) -> Any:
    """A learning rate that falls to 0, so that what was learned settles."""
    return lambda progress_remaining: start * progress_remaining


NET = {"net_arch": [32]}
PROBE: dict[str, Any] = {"n_steps": 16, "learning_rate": falling(3e-2), "policy_kwargs": NET, "gamma": 0.5}
IDENTITY: dict[str, Any] = {"n_steps": 25, "learning_rate": falling(2e-2), "policy_kwargs": NET, "gamma": 0.0}

FITTED_CRITIC = OWN_CRITIC | {"value_learning_rate": falling(1e-2), "n_value_updates": 5}
every_critic = pytest.mark.parametrize("critic", [JOINT_CRITIC, FITTED_CRITIC], ids=["joint", "own"])


def probe(reward: Any, length: int = 1, n_envs: int = 8) -> DummyVecEnv:
    """Several probe environments."""
    env = DummyVecEnv([lambda: ProbeEnv(reward, length) for _ in range(n_envs)])
    env.seed(0)
    return env


def value(model: PolicyGradientAlgorithm, sign: float, time_left: float = 1.0) -> float:
    """What the critic says of an observation."""
    with th.no_grad():
        values = model.policy.predict_values(th.tensor([[sign, time_left]]))
    return float(values)


def probability(model: PolicyGradientAlgorithm, sign: float, action: int, time_left: float = 1.0) -> float:
    """How likely the policy takes an action."""
    with th.no_grad():
        distribution = model.policy.get_distribution(th.tensor([[sign, time_left]]))
        return float(distribution.log_prob(th.tensor([action])).exp())


@every_algorithm
@pytest.mark.parametrize("baseline", ["batch_mean", "time_mean", "leave_one_out", "time_leave_one_out"])
@pytest.mark.parametrize("normalize_advantage", [True, False])
def test_constant_reward_teaches_nothing(algorithm: Algorithm, baseline: str, normalize_advantage: bool) -> None:
    """Where every episode earns the same, a baseline over episodes leaves nothing: not a bit of the policy changes."""
    kwargs = PROBE | {"baseline": baseline, "normalize_advantage": normalize_advantage}
    model = make(algorithm, probe(lambda sign, action, t: 1.0), **kwargs)
    before = snapshot(model)["policy"]
    model.learn(8 * 16 * 3)
    assert n_updates(model) == 3
    assert differences(before, snapshot(model)["policy"]) == []


@every_algorithm
@every_critic
def test_critic_of_a_constant(algorithm: Algorithm, critic: dict[str, Any]) -> None:
    """A reward of 1: V = 1."""
    model = make(algorithm, probe(lambda sign, action, t: 1.0), **PROBE | critic).learn(8 * 16 * 50)
    assert [value(model, sign) for sign in (-1.0, 1.0)] == pytest.approx([1.0, 1.0], abs=0.05)


@every_algorithm
@every_critic
def test_critic_sees_the_observation(algorithm: Algorithm, critic: dict[str, Any]) -> None:
    """The reward is the sign seen: V(s) = s."""
    model = make(algorithm, probe(lambda sign, action, t: sign), **PROBE | critic).learn(8 * 16 * 50)
    assert [value(model, sign) for sign in (-1.0, 1.0)] == pytest.approx([-1.0, 1.0], abs=0.1)


@every_algorithm
@every_critic
def test_critic_discounts(algorithm: Algorithm, critic: dict[str, Any]) -> None:
    """A reward of 1 at the second of two steps: V = gamma, then 1."""
    env = probe(lambda sign, action, t: float(t == 1), length=2)
    model = make(algorithm, env, **PROBE | critic).learn(8 * 16 * 100)
    assert value(model, 1.0, time_left=1.0) == pytest.approx(0.5, abs=0.1)
    assert value(model, 1.0, time_left=0.5) == pytest.approx(1.0, abs=0.1)


@every_algorithm
@every_estimator
def test_policy_follows_the_reward(algorithm: Algorithm, estimator: dict[str, Any]) -> None:
    """The reward is 1 for action 1 and -1 for action 0."""
    env = probe(lambda sign, action, t: 2.0 * action - 1.0)
    model = make(algorithm, env, **PROBE | estimator).learn(8 * 16 * 20)
    assert min(probability(model, sign, action=1) for sign in (-1.0, 1.0)) > 0.95


@every_algorithm
@every_estimator
def test_policy_sees_the_observation(algorithm: Algorithm, estimator: dict[str, Any]) -> None:
    """The reward is 1 where the action agrees with the sign, and -1 where it does not; the critic comes to expect 1."""
    env = probe(lambda sign, action, t: sign * (2.0 * action - 1.0))
    model = make(algorithm, env, **PROBE | estimator).learn(8 * 16 * 50)
    assert probability(model, -1.0, action=0) > 0.95
    assert probability(model, 1.0, action=1) > 0.95
    if estimator["baseline"] == "value":
        assert [value(model, sign) for sign in (-1.0, 1.0)] == pytest.approx([1.0, 1.0], abs=0.15)


@every_algorithm
@every_estimator
@pytest.mark.parametrize("returns", ["reward_to_go", "total"])
def test_credit_reaches_back(algorithm: Algorithm, estimator: dict[str, Any], returns: str) -> None:
    """The first of two actions costs 0.2 at once and pays 1 a step later: worth it only to who looks ahead."""

    class Investment(ProbeEnv):
        def __init__(self) -> None:
            super().__init__(self.pay, length=2)
            self.invested = 0

        def pay(self, sign: float, action: Any, t: int) -> float:
            if t == 0:
                self.invested = int(action)
                return -0.2 * self.invested
            return float(self.invested)

    def learned(gamma: float) -> float:
        env = DummyVecEnv([Investment for _ in range(8)])
        env.seed(0)
        kwargs = PROBE | estimator | {"returns": returns, "gamma": gamma}
        model = make(algorithm, env, **kwargs).learn(8 * 16 * 30)
        return probability(model, 1.0, action=1)

    assert learned(gamma=0.9) > 0.9
    assert learned(gamma=0.05) < 0.1


@every_algorithm
@pytest.mark.parametrize("incomplete_episodes", ["carry", "truncate", "drop", "bootstrap"])
@pytest.mark.parametrize("n_episodes", [None, 16])
def test_learns_over_the_edge(algorithm: Algorithm, incomplete_episodes: str, n_episodes: int | None) -> None:
    """Episodes of 12 steps in rollouts of 32: whatever an unfinished one is worth, the policy follows the reward."""
    env = probe(lambda sign, action, t: sign * (2.0 * action - 1.0), length=12)
    estimator = JOINT_CRITIC if incomplete_episodes == "bootstrap" else MONTE_CARLO
    kwargs = PROBE | estimator | {"incomplete_episodes": incomplete_episodes, "n_episodes": n_episodes}
    model = make(algorithm, env, **kwargs | {"n_steps": 32}).learn(8 * 32 * 20)
    assert probability(model, -1.0, action=0, time_left=0.5) > 0.9
    assert probability(model, 1.0, action=1, time_left=0.5) > 0.9


# SB3's identity tasks: 25 steps an episode, 1 for an action that equals the observation

IDENTITY_TASKS: dict[str, tuple[Any, int, float]] = {
    # The task, iterations, and the share of right answers wanted; who knows nothing has 1/4, and 1/2 in the Box.
    "Discrete": (lambda: IdentityEnv(4, ep_length=25), 30, 0.9),
    "MultiDiscrete": (lambda: IdentityEnvMultiDiscrete(2, ep_length=25), 30, 0.9),
    "MultiBinary": (lambda: IdentityEnvMultiBinary(2, ep_length=25), 30, 0.9),
    "Box": (lambda: IdentityEnvBox(eps=0.5, ep_length=25), 60, 0.9),
}


#: One task with every estimator, and the other action spaces with one.
IDENTITIES = [
    pytest.param(*task, estimator, id=f"{name}-{kind}")
    for name, task in IDENTITY_TASKS.items()
    for kind, estimator in ESTIMATORS.items()
    if kind == "own critic" or name == next(iter(IDENTITY_TASKS))
]


@every_algorithm
@pytest.mark.parametrize(("task", "iterations", "share", "estimator"), IDENTITIES)
def test_identity(algorithm: Algorithm, estimator: dict[str, Any], task: Any, iterations: int, share: float) -> None:
    """The deterministic policy names what it sees, in every kind of action space."""
    env = make_vec_env(task, n_envs=8, seed=0)
    for index in range(8):  # these environments draw what they observe from their action spaces
        env.env_method("get_wrapper_attr", "action_space", indices=index)[0].seed(index)
    model = make(algorithm, env, **IDENTITY | estimator).learn(8 * 25 * iterations)
    mean, _ = evaluate_policy(model, env, n_eval_episodes=16, warn=False)
    assert isinstance(mean, float)
    assert mean / 25 >= share


class StopAt(BaseCallback):
    """Ends the training when the last 100 training episodes score a target; remembers the best they did."""

    def __init__(self, target: float) -> None:
        super().__init__()
        self.target, self.best = target, 0.0

    def _on_step(self) -> bool:
        scores = [episode["r"] for episode in self.model.ep_info_buffer or ()]
        if len(scores) == 100:
            self.best = max(self.best, sum(scores) / 100)
        return self.best < self.target


def best_of_cartpole(algorithm: Algorithm, settings: dict[str, Any], budget: int, seed: int) -> float:
    """The best mean over 100 episodes within the budget; it ends at 490."""
    env, goal = make_vec_env("CartPole-v1", n_envs=8, seed=seed), StopAt(490.0)
    with warnings.catch_warnings():
        # Eight episodes that go on to the limit of 500 steps may leave a rollout of 256 without an end
        warnings.filterwarnings("ignore", message="No episode ended")
        algorithm("MlpPolicy", env, seed=seed, device="cpu", **settings).learn(budget, callback=goal)
    return goal.best


@pytest.mark.parametrize(
    ("algorithm", "settings", "budget"),
    # Along the natural gradient it takes longer here than by plain steps
    [(VanillaPG, {"learning_rate": 3e-3}, 100_000), (VanillaPG, {}, 150_000), (OffPolicyISPG, {}, 100_000)],
)
def test_cartpole(algorithm: Algorithm, settings: dict[str, Any], budget: int) -> None:
    """A mean of 490 over 100 episodes within the budget, with the defaults.

    The second of them takes 147,000 steps on this seed: a change that makes it slower is noticed here.
    """
    assert best_of_cartpole(algorithm, settings, budget, seed=201) >= 490.0


def test_cartpole_by_whole_episodes() -> None:
    """REINFORCE, with its configuration, on two seeds: both learn, and one reaches 490.

    Not every run does, and a rounding makes another run of a seed: ``docs/results/learning.md`` counts how many.
    """
    section = read_configs(config_path("reinforce"))["CartPole-v1"]
    settings = {name: section[name] for name in ("n_steps", "gamma")}
    settings["learning_rate"] = falling(float(section["learning_rate"].removeprefix("lin_")))
    scores = [best_of_cartpole(REINFORCE, settings, 200_000, seed) for seed in (201, 202)]
    assert min(scores) >= 300.0
    assert max(scores) >= 490.0
