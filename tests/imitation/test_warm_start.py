"""What learning on from a clone needs: statistics that mean the same, and a critic that knows something."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
import torch as th
from stable_baselines3 import A2C, PPO
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize

from sb3_pg import REINFORCE, OffPolicyISPG, VanillaPG
from sb3_pg.imitation import Demonstration, clone, played_by, warm_start
from tests.helpers.environments import ProbeEnv
from tests.helpers.models import TINY


def made(algorithm: Any, env: Any, **kwargs: Any) -> Any:
    return algorithm("MlpPolicy", env, policy_kwargs=dict(TINY), device="cpu", seed=0, **kwargs)


@pytest.fixture
def env() -> DummyVecEnv:
    """A reward of 1 in each of two steps."""
    env = DummyVecEnv([partial(ProbeEnv, lambda *_: 1.0, 2)] * 4)
    env.seed(0)
    return env


@pytest.mark.parametrize("algorithm", [VanillaPG, OffPolicyISPG, PPO, A2C])
def test_the_critic_is_fitted_to_rewards_to_go_and_the_actor_as_by_cloning(algorithm: Any, env: DummyVecEnv) -> None:
    """With gamma 0.5: 1.5 at the first step, 1 at the second."""
    episodes = played_by(made(REINFORCE, env), n_episodes=40, deterministic=False)
    np.random.seed(0)
    model = made(algorithm, env, gamma=0.5)
    losses = warm_start(model, episodes, n_value_epochs=100, value_learning_rate=1e-2, n_epochs=3)
    np.random.seed(0)
    cloned = made(algorithm, env, gamma=0.5)
    assert losses == clone(cloned, episodes, n_epochs=3)
    values = model.policy.predict_values(th.tensor([[1.0, 1.0], [-1.0, 1.0], [1.0, 0.5], [-1.0, 0.5]]))
    assert values.flatten().tolist() == pytest.approx([1.5, 1.5, 1.0, 1.0], abs=0.05)
    for name, parameter in model.policy.named_parameters():
        changed = not th.equal(parameter, cloned.policy.get_parameter(name))
        assert changed == ("value" in name), name
    model.learn(64)


def test_without_rewards_or_critic_it_is_cloning(env: DummyVecEnv) -> None:
    for algorithm, rewards in ((VanillaPG, None), (REINFORCE, np.ones(5))):
        episode = Demonstration(np.ones((5, 2)), np.zeros(5), rewards)
        begun, cloned = made(algorithm, env), made(algorithm, env)
        np.random.seed(0)
        warm_start(begun, [episode])
        np.random.seed(0)
        clone(cloned, [episode])
        state = cloned.policy.state_dict()
        assert all(th.equal(value, state[key]) for key, value in begun.policy.state_dict().items())


def test_statistics_are_those_of_the_demonstrations() -> None:
    """As VecNormalize computes them; and the critic is fitted in its units."""
    rng = np.random.default_rng(0)
    episodes = [Demonstration(rng.normal(5, 3, (60, 3)), rng.uniform(-2, 2, (60, 1)), np.full(60, 7.0)) for _ in "abc"]
    env = VecNormalize(make_vec_env("Pendulum-v1", 2, seed=0), gamma=0.0)
    model = made(VanillaPG, env, gamma=0.0, n_steps=16)
    warm_start(model, episodes, n_value_epochs=50, value_learning_rate=1e-2)
    seen: Any = np.concatenate([one.observations for one in episodes])
    statistics: Any = env.obs_rms
    assert np.allclose(statistics.mean, seen.mean(axis=0), rtol=1e-4)
    assert np.allclose(statistics.var, seen.var(axis=0), rtol=1e-4)
    assert env.ret_rms.mean == pytest.approx(7.0, rel=1e-4)
    normalised: Any = env.normalize_obs(seen)
    said = model.policy.predict_values(th.as_tensor(normalised, dtype=th.float32)).mean().item()
    assert said == pytest.approx(float(env.normalize_reward(np.array([7.0]))[0]), abs=0.05)
    model.learn(64)


def test_statistics_stay_where_they_are_not_learned_or_nothing_is_cloned() -> None:
    env = VecNormalize(make_vec_env("Pendulum-v1", 2, seed=0))
    model = made(VanillaPG, env)
    statistics: Any = env.obs_rms
    with pytest.raises(ValueError, match="not in Box"):
        warm_start(model, [Demonstration(np.ones((5, 3)), np.full((5, 1), 9.0))])
    with pytest.raises(ValueError, match="weights must be one of"):
        warm_start(model, [Demonstration(np.ones((5, 3)), np.zeros((5, 1)))], weights="value")
    with pytest.raises(ValueError, match="would be no float32"):
        warm_start(model, [Demonstration(np.ones((5, 3)), np.zeros((5, 1)), np.array([0.0, 1e30] * 2 + [0.0]))])
    statistics = env.obs_rms
    assert statistics.count < 1 and env.ret_rms.count < 1
    env.training = False
    warm_start(model, [Demonstration(np.ones((5, 3)), np.zeros((5, 1)), np.ones(5))])
    assert statistics.count < 1


@pytest.mark.parametrize("wrong", ["n_value_epochs", "value_batch_size", "value_learning_rate", "n_epochs"])
def test_arguments_that_are_none(wrong: str, env: DummyVecEnv) -> None:
    arguments: dict[str, Any] = {wrong: -1}
    with pytest.raises(ValueError, match=wrong):
        warm_start(made(VanillaPG, env), [Demonstration(np.ones((5, 2)), np.zeros(5))], **arguments)
