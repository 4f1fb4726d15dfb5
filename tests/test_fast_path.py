"""Collecting with the actor alone gives what collecting with the whole policy gives, from the same random numbers."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch as th
from gymnasium import spaces
from stable_baselines3.common.callbacks import BaseCallback
from stable_baselines3.common.env_util import make_vec_env
from stable_baselines3.common.policies import ActorCriticPolicy
from stable_baselines3.common.torch_layers import FlattenExtractor

from sb3_pg import ActorPolicy, EpisodeRolloutBuffer
from sb3_pg.common.base_algorithm import PolicyGradientAlgorithm
from sb3_pg.policies import acting
from sb3_pg.policies.acting import actor_of
from sb3_pg.policies.fast.stock import is_stock
from tests.helpers.models import JOINT_CRITIC, MONTE_CARLO, Algorithm, every_algorithm, make


class Facts(BaseCallback):
    """Keeps what every rollout put into the buffer."""

    model: PolicyGradientAlgorithm
    FIELDS = ("observations", "actions", "rewards", "episode_starts", "values", "log_probs", "advantages")

    def __init__(self) -> None:
        super().__init__()
        self.rollouts: list[dict[str, np.ndarray]] = []

    def _on_step(self) -> bool:
        return True

    def _on_rollout_end(self) -> None:
        buffer = self.model.rollout_buffer
        self.rollouts.append({name: getattr(buffer, name)[: buffer.pos].copy() for name in self.FIELDS})


def collect(
    algorithm: Algorithm, env_id: str, n_envs: int, **kwargs: Any
) -> tuple[list[dict[str, np.ndarray]], th.Tensor]:
    """Five rollouts of 40 steps, and the state of the random numbers after them."""
    env = make_vec_env(env_id, n_envs, seed=0)
    model, facts = make(algorithm, env, n_steps=40, **kwargs), Facts()
    model.learn(5 * 40 * n_envs, callback=facts)
    return facts.rollouts, th.get_rng_state()


@every_algorithm
@pytest.mark.filterwarnings("ignore:No episode ended")
@pytest.mark.parametrize("estimator", [MONTE_CARLO, JOINT_CRITIC], ids=["actor", "critic"])
@pytest.mark.parametrize(("env_id", "n_envs"), [("CartPole-v1", 1), ("CartPole-v1", 20), ("Pendulum-v1", 7)])
@pytest.mark.parametrize("activation", [th.nn.Tanh, th.nn.ReLU])
def test_both_paths_give_the_same(
    monkeypatch: pytest.MonkeyPatch,
    algorithm: Algorithm,
    env_id: str,
    n_envs: int,
    estimator: dict[str, Any],
    activation: type[th.nn.Module],
) -> None:
    """The first rollout: observations, actions and rewards bit for bit, values and log-probs to the rounding of another
    batch size; the same number of random numbers. The rollouts after it are those of parameters that differ by that
    rounding."""
    kwargs = estimator | {"policy_kwargs": {"net_arch": [16, 16], "activation_fn": activation}, "learning_rate": 1e-4}
    fast, state = collect(algorithm, env_id, n_envs, **kwargs)
    monkeypatch.setattr(acting, "is_stock", lambda policy: False)
    general, general_state = collect(algorithm, env_id, n_envs, **kwargs)
    assert th.equal(state, general_state)
    for name in Facts.FIELDS:
        exactly = name in ("observations", "actions", "rewards", "episode_starts")
        for one, other in zip(fast[:1] if exactly else fast, general, strict=False):
            scale = max(1.0, float(np.abs(other[name]).max()))
            np.testing.assert_allclose(one[name], other[name], rtol=0, atol=0 if exactly else 1e-4 * scale)
        np.testing.assert_allclose(fast[0][name], general[0][name], rtol=0, atol=0 if exactly else 2e-5)


def policy(cls: type[ActorCriticPolicy] = ActorCriticPolicy, **kwargs: Any) -> ActorCriticPolicy:
    """A small policy."""
    space = kwargs.pop("observation_space", spaces.Box(-1, 1, (3,)))
    return cls(space, kwargs.pop("action_space", spaces.Discrete(4)), lambda _: 0.0, net_arch=[8], **kwargs)


@pytest.mark.parametrize("cls", [ActorCriticPolicy, ActorPolicy])
@pytest.mark.parametrize("action_space", [spaces.Discrete(5), spaces.Box(-1, 1, (6,)), spaces.Box(-1, 1, (2, 2))])
@pytest.mark.parametrize("n_envs", [1, 3, 500, 20_000])
def test_actions_are_those_of_the_policy(cls: type[ActorCriticPolicy], action_space: Any, n_envs: int) -> None:
    """Bit for bit, of the same type and shape, drawn from as many random numbers, and on as many threads afterwards.

    Of 100,000 Discrete draws a rounding may decide one or two.
    """
    n_threads = th.get_num_threads()
    one = policy(cls, action_space=action_space)
    assert is_stock(one)
    actor = actor_of(one, n_envs, 5)
    for seed in range(5):
        obs = np.random.default_rng(seed).normal(size=(n_envs, 3)).astype(np.float32)
        th.manual_seed(seed)
        with th.no_grad():
            expected, state = one(th.as_tensor(obs))[0].numpy(), th.get_rng_state()
        th.manual_seed(seed)
        actions = actor.act(obs)
        assert actions.dtype == expected.dtype
        assert actions.shape == expected.shape
        assert np.sum(actions != expected) <= (2 if actions.dtype == np.int64 and n_envs > 500 else 0)
        assert th.equal(th.get_rng_state(), state)
        assert th.get_num_threads() == n_threads


def test_a_rounding_decides_less_than_one_draw_in_a_million() -> None:
    """Of Discrete actions, in two million draws."""
    one, n_differ = policy(), 0
    obs = np.random.default_rng(0).normal(size=(20_000, 3)).astype(np.float32)
    actor = actor_of(one, len(obs), 100)
    for seed in range(100):
        th.manual_seed(seed)
        with th.no_grad():
            expected = one(th.as_tensor(obs))[0].numpy()
        th.manual_seed(seed)
        n_differ += np.sum(actor.act(obs) != expected)
    assert n_differ < 2


@pytest.mark.parametrize("cls", [ActorCriticPolicy, ActorPolicy])
@pytest.mark.parametrize("action_space", [spaces.Discrete(5), spaces.Box(-1, 1, (2, 2))])
def test_log_probs_are_those_of_the_policy(cls: type[ActorCriticPolicy], action_space: Any) -> None:
    """Of all steps that were drawn, and of no other, in more rows than one piece takes."""
    one = policy(cls, action_space=action_space)
    actor = actor_of(one, 3000, 4)
    observations = np.random.default_rng(0).normal(size=(2, 3000, 3)).astype(np.float32)
    actions = th.as_tensor(np.concatenate([actor.act(step) for step in observations])).reshape(6000, -1).squeeze(1)
    with th.no_grad():
        expected = one.evaluate_actions(th.as_tensor(observations.reshape(-1, 3)), actions)[1]
    _, log_probs = actor.evaluation(th.as_tensor(observations.reshape(-1, 3)))
    th.testing.assert_close(log_probs, expected, rtol=1e-6, atol=2e-6)


class Overridden(ActorCriticPolicy):
    """A class of the user's."""


class OwnFeatures(FlattenExtractor):
    """A features extractor of the user's."""


def hooked(module_of: Any) -> ActorCriticPolicy:
    """A policy whose passes somebody listens to."""
    one = policy()
    module_of(one).register_forward_hook(lambda module, arguments, output: None)
    return one


def replaced() -> ActorCriticPolicy:
    """A policy with a method of the user's on the object."""
    one = policy()
    one.forward = lambda obs, deterministic=False: None  # type: ignore[assignment, method-assign, return-value]
    return one


GENERAL = {
    "subclass": lambda: policy(Overridden),
    "method": replaced,
    "hook": lambda: hooked(lambda one: one),
    "hook inside": lambda: hooked(lambda one: one.action_net),
    "features": lambda: policy(features_extractor_class=OwnFeatures),
    "activation": lambda: policy(activation_fn=th.nn.ELU),
    "gSDE": lambda: policy(action_space=spaces.Box(-1, 1, (2,)), use_sde=True),
    "MultiDiscrete": lambda: policy(action_space=spaces.MultiDiscrete([2, 3])),
    "MultiBinary": lambda: policy(action_space=spaces.MultiBinary(2)),
    "Discrete observation": lambda: policy(observation_space=spaces.Discrete(3)),
    "image": lambda: policy(observation_space=spaces.Box(0, 255, (40, 40, 3), np.uint8)),
    "double": lambda: policy().double(),
}


@pytest.mark.parametrize("make_policy", GENERAL.values(), ids=GENERAL.keys())
def test_everything_else_takes_the_general_path(make_policy: Any) -> None:
    assert not is_stock(make_policy())


class Counting(EpisodeRolloutBuffer):
    """A buffer of the user's that looks at values as they come."""

    n_added = 0

    def add(self, obs: Any, action: Any, reward: Any, episode_start: Any, value: Any, log_prob: Any) -> None:
        assert value.shape == (self.n_envs, 1) and log_prob.shape == (self.n_envs,)
        self.n_added += 1
        super().add(obs, action, reward, episode_start, value, log_prob)


@every_algorithm
def test_a_buffer_that_overrides_add_gets_every_step(algorithm: Algorithm) -> None:
    env = make_vec_env("CartPole-v1", 2, seed=0)
    model = make(algorithm, env, n_steps=64, rollout_buffer_class=Counting).learn(128)
    assert model.rollout_buffer.n_added == 64  # type: ignore[attr-defined]


@every_algorithm
def test_observations_that_are_no_float32(algorithm: Algorithm) -> None:
    """Integers and doubles reach the network as SB3 hands them over, in float32."""

    class Env(gym.Env[np.ndarray, Any]):
        observation_space = spaces.Box(-5, 5, (2, 2), np.int64)
        action_space = spaces.Discrete(2)

        def reset(self, **kwargs: Any) -> tuple[np.ndarray, dict[str, Any]]:
            super().reset(**kwargs)
            self.t = 0
            return np.zeros((2, 2), np.int64), {}

        def step(self, action: int) -> tuple[np.ndarray, float, bool, bool, dict[str, Any]]:
            self.t += 1
            return np.full((2, 2), self.t % 5), float(action), self.t >= 6, False, {}

    model = make(algorithm, make_vec_env(Env, 3))
    assert is_stock(model.policy)
    model.learn(96)
    assert model.rollout_buffer.observations.dtype == np.int64
